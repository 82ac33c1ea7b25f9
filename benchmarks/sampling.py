"""Sampling: DDIM with 20 steps of one U-Net, and the solvers' own cost, diffax beside diffusers.

    python benchmarks/sampling.py --size=digits --peer_python=PYTHON_WITH_TORCH

The second table times one solver step with the denoiser ``x/2``: what a library adds to the network's time.
"""

import jax
from common import SIZES, arguments, median_seconds, peer, print_table
from ours import make_unet

from diffax import FromTable, bind, grids, sample, tables
from diffax.samplers import ddim, ddpm, dpmpp_2m, heun


def unet_seconds(spec: dict, dtype: str, repeats: int, **options: object) -> float:
    """Median seconds of a whole DDIM-20 batch."""
    model, params, x = make_unet(spec, dtype, **options)
    process = FromTable(tables.linear(1000))

    @jax.jit
    def run(params: object, keys: jax.Array) -> jax.Array:
        denoise = bind(
            lambda p, x, t, _: model.apply({"params": p}, x, t), params, process=process, output="eps"
        )
        return sample(keys, denoise, process, ddim(), grids.trailing(process, 20), shape=x.shape[1:]).x

    keys = jax.random.split(jax.random.key(0), spec["batch"])
    return median_seconds(lambda: run(params, keys).block_until_ready(), repeats, warm_up=1)


def solver_seconds(spec: dict, repeats: int) -> dict[str, float]:
    """Median seconds of one step of each solver with a trivial denoiser."""
    process = FromTable(tables.linear(1000))
    shape = (spec["size"], spec["size"], spec["image_channels"])
    keys = jax.random.split(jax.random.key(0), spec["batch"])
    result = {}
    for name, sampler in {"ddim": ddim(), "dpmpp_2m": dpmpp_2m(), "heun": heun(), "ddpm": ddpm()}.items():

        @jax.jit
        def run(keys: jax.Array, sampler: object = sampler) -> jax.Array:
            grid = grids.trailing(process, 100)
            return sample(keys, lambda x, t, c: 0.5 * x, process, sampler, grid, shape=shape).x

        result[name] = median_seconds(lambda run=run: run(keys).block_until_ready(), repeats) / 100
    return result


def main() -> None:
    """Ours, then the peer's, then the ratios."""
    options = arguments(__doc__ or "")
    spec = SIZES[options.size]
    rows = [
        {"library": name, "s/batch": unet_seconds(spec, options.dtype, options.repeats, **extra)}
        for name, extra in (("diffax", {}), ("diffax, patch 2", {"patch_size": 2}))
    ]
    theirs = peer("sampling", options)
    if theirs:
        rows.append({"library": f"diffusers {theirs['diffusers']}", "s/batch": theirs["seconds"]})
        for row in rows:
            row["time / peer's"] = row["s/batch"] / theirs["seconds"]
    ours, theirs = solver_seconds(spec, options.repeats), peer("overhead", options) or {}
    print(f"size {options.size}, {options.dtype}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print_table(rows)
    print()
    solvers = []
    for name, seconds in ours.items():
        row = {"solver": name, "diffax us/step": 1e6 * seconds}
        if name in theirs:
            row |= {"diffusers us/step": 1e6 * theirs[name], "time / peer's": seconds / theirs[name]}
        solvers.append(row)
    print_table(solvers)


if __name__ == "__main__":
    main()
