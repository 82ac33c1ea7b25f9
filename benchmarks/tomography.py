"""Projectors: process CPU time of A and A^T, diffax beside the tomography libraries that are installed.

    python benchmarks/tomography.py [--peer_python=PYTHON_WITH_PEERS] [--views=8,60,180] [--slices=1,64]

Milliseconds of process CPU time, best of several, over all threads: wall-clock time means little on a shared
machine. Peers (astra-toolbox, scikit-image, deepinv, mbirjax) run in one process each, of ``--peer_python``;
those without a batch of slices loop over them. A table and, last, one line of JSON.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import ask_peer, cpu_ms, print_table

PEERS = ("astra", "skimage", "deepinv", "mbirjax")
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def data(size: int, views: int, slices: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Angles, an image with slices first, the number of bins, and a sinogram with slices first."""
    bins = math.ceil(size * math.sqrt(2))
    rng = np.random.default_rng(0)
    image = rng.random((slices, size, size), np.float32)
    return np.arange(views) * np.pi / views, image, bins, rng.random((slices, views, bins), np.float32)


def ours(size: int, views: int, slices: int, tables: bool, repeats: int) -> dict[str, float]:
    """Times of both directions, and CPU seconds to compile both."""
    import jax

    from diffax.operators import parallel_beam

    angles, image, bins, sinogram = data(size, views, slices)
    operator = parallel_beam((size, size, slices), angles, bins, tables=tables)
    x, y = (jax.device_put(np.ascontiguousarray(np.moveaxis(a, 0, -1))) for a in (image, sinogram))
    start = time.process_time()
    forward = jax.jit(lambda a, x: a(x)).lower(operator, x).compile()
    adjoint = jax.jit(lambda a, y: a.adjoint(y)).lower(operator, y).compile()
    compiled = time.process_time() - start
    return {
        "A ms": cpu_ms(lambda: forward(operator, x).block_until_ready(), repeats),
        "A^T ms": cpu_ms(lambda: adjoint(operator, y).block_until_ready(), repeats),
        "compile s": compiled,
    }


def make_astra(size: int, views: int, slices: int) -> Pair:
    """astra-toolbox on the CPU, its ``linear`` projector (Joseph's), slice by slice."""
    import astra

    angles, image, bins, sinogram = data(size, views, slices)
    geometry = astra.create_proj_geom("parallel", 1.0, bins, angles)
    projector = astra.create_projector("linear", geometry, astra.create_vol_geom(size, size))

    def forward() -> None:
        for one in image:
            astra.data2d.delete(astra.create_sino(one, projector)[0])

    def adjoint() -> None:
        for one in sinogram:
            astra.data2d.delete(astra.create_backprojection(one, projector)[0])

    return forward, adjoint


def make_skimage(size: int, views: int, slices: int) -> Pair:
    """scikit-image's radon and unfiltered iradon (which is not its adjoint), slice by slice."""
    from skimage.transform import iradon, radon

    angles, image, _, sinogram = data(size, views, slices)
    degrees = np.rad2deg(angles)

    def forward() -> None:
        for one in image:
            radon(one, degrees, circle=False)

    def adjoint() -> None:
        for one in sinogram:
            iradon(one.T, degrees, output_size=size, filter_name=None, circle=False)

    return forward, adjoint


def make_deepinv(size: int, views: int, slices: int) -> Pair:
    """deepinv's Tomography, slices as the batch, its adjoint by backpropagation."""
    import deepinv
    import torch

    torch.set_num_threads(1)
    angles, image, _, _ = data(size, views, slices)
    physics = deepinv.physics.Tomography(
        angles=torch.tensor(np.rad2deg(angles), dtype=torch.float32),
        img_width=size,
        circle=False,
        normalize=False,
        adjoint_via_backprop=True,
    )
    x = torch.tensor(image)[:, None]
    y = physics.A(x)
    return lambda: physics.A(x), lambda: physics.A_adjoint(y)


def make_mbirjax(size: int, views: int, slices: int) -> Pair:
    """mbirjax's parallel beam, all slices at once."""
    import jax.numpy as jnp
    import mbirjax

    angles, image, bins, sinogram = data(size, views, slices)
    model = mbirjax.ParallelBeamModel((views, slices, bins), angles)
    model.set_params(recon_shape=(size, size, slices), no_warning=True)
    x = jnp.asarray(np.moveaxis(image, 0, -1))
    y = jnp.asarray(sinogram.transpose(1, 0, 2))
    return lambda: np.asarray(model.forward_project(x)), lambda: np.asarray(model.back_project(y))


def measure_peer(name: str, size: int, views: int, slices: int, repeats: int) -> dict[str, float]:
    """Times of a peer's two directions, in this process."""
    makers = {"astra": make_astra, "skimage": make_skimage, "deepinv": make_deepinv, "mbirjax": make_mbirjax}
    forward, adjoint = makers[name](size, views, slices)
    return {"A ms": cpu_ms(forward, repeats), "A^T ms": cpu_ms(adjoint, repeats)}


def rows_of(case: tuple[int, int, int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every library on one case; ratios are to our default."""
    size, views, slices = case
    found = {"diffax": ours(size, views, slices, False, options.repeats)}
    found["diffax, tables"] = ours(size, views, slices, True, options.repeats)
    for name in PEERS:
        if name in options.peers.split(",") and (
            times := ask_peer(__file__, [name, *case, options.repeats], options)
        ):
            found[name] = times
    base = found["diffax"]["A ms"] + found["diffax"]["A^T ms"]
    about = {"image": f"{size}x{size}x{slices}", "views": views}
    return [
        {**about, "library": name, **times, "time / diffax's": (times["A ms"] + times["A^T ms"]) / base}
        for name, times in found.items()
    ]


def main() -> None:
    """Ours and the peers', case by case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", default="8,60,180")
    parser.add_argument("--slices", default="1,64")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one peer and case")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure_peer(*json.loads(options.task))))
        return
    numbers = [[int(n) for n in text.split(",")] for text in (options.views, options.slices)]
    cases = [(options.size, views, slices) for slices in numbers[1] for views in numbers[0]]
    rows = [row for case in cases for row in rows_of(case, options)]
    print_table(rows)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
