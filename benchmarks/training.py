"""Training step of one U-Net: diffax beside diffusers (PyTorch), as a ratio.

    python benchmarks/training.py --size=digits --peer_python=PYTHON_WITH_TORCH

Forward, backward and Adam on a fixed batch of noise; medians. On a CPU a second row of ours splits the batch
over two virtual devices, which fill two cores where one does not. The "patch 2" rows have a 2x2
space-to-depth stem, which the peer's network does not offer.
"""

import jax
import jax.numpy as jnp
import optax
from common import SIZES, arguments, median_seconds, peer, print_table
from ours import make_unet

from diffax.training import batch_sharding, count_params, make_mesh, replicate

jax.config.update("jax_num_cpu_devices", 2)


def step_seconds(
    spec: dict, dtype: str, repeats: int, devices: int = 1, **options: object
) -> tuple[float, int]:
    """Median seconds of one donated step, and the number of parameters."""
    model, params, x = make_unet(spec, dtype, **options)
    optimizer = optax.adam(1e-4)
    mesh = make_mesh(devices)
    t = jnp.linspace(0.0, 1.0, spec["batch"])
    x, eps, t = jax.device_put((x, x[::-1], t), batch_sharding(mesh))
    params = replicate(params, mesh)

    def loss(params: object, x: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.mean((model.apply({"params": params}, x, t) - eps) ** 2)

    def step(params: object, state: object, *batch: jax.Array) -> tuple:
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    carry = [(params, optimizer.init(params))]

    def run() -> None:
        carry[0] = jax.block_until_ready(step(*carry[0], x, eps, t))

    count = count_params(params)
    return median_seconds(run, repeats), count


def main() -> None:
    """Ours, then the peer's, then the ratio."""
    options = arguments(__doc__ or "")
    spec = SIZES[options.size]
    rows = []
    two = [2] if jax.default_backend() == "cpu" else []
    for name, extra in (
        ("diffax", {}),
        *((f"diffax, {n} devices", {"devices": n}) for n in two),
        ("diffax, patch 2", {"patch_size": 2}),
        *((f"diffax, patch 2, {n} devices", {"patch_size": 2, "devices": n}) for n in two),
    ):
        seconds, count = step_seconds(spec, options.dtype, options.repeats, **extra)
        rows.append(
            {"library": name, "params": count, "ms/step": 1e3 * seconds, "images/s": spec["batch"] / seconds}
        )
    theirs = peer("training", options)
    if theirs:
        row = {"library": f"diffusers {theirs['diffusers']}", "params": theirs["params"]}
        rows.append(
            {**row, "ms/step": 1e3 * theirs["seconds"], "images/s": spec["batch"] / theirs["seconds"]}
        )
        for row in rows:
            row["time / peer's"] = row["ms/step"] / (1e3 * theirs["seconds"])
    print(f"size {options.size}, {options.dtype}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print_table(rows)


if __name__ == "__main__":
    main()
