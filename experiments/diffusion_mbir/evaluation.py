"""Held-out volumes, measured and reconstructed: every scan of the configuration, every method."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax.inverse import LinearProblem
from diffax.processes import GaussianProcess
from diffax.training import TrainState, distributed, mesh_of
from diffax.types import DenoiseFn, Params
from experiments import build
from experiments.diffusion_mbir import drive, measures, pictures
from experiments.diffusion_mbir.method import reconstruct_classically, settings_of
from experiments.diffusion_mbir.priors import make_denoise
from experiments.diffusion_mbir.scan import Geometry, Scan, make_geometry, simulate
from experiments.figures import as_figures, as_rows
from experiments.progress import Counted, say

Images = Float[np.ndarray, "h w n"]


class Case(NamedTuple):
    """One volume under one scanner; cases of one name are averaged. ``thickness``: of slices, in pixels."""

    name: str
    scan: Scan
    truth: Images
    thickness: float = 1.0


class Study(NamedTuple):
    """What is compared, around one prior: diffusion methods by name with their changed settings.

    ``ablate_z``: names of the cases in which the first of them, if it has a prior along z, also runs without
    it; ADMM-TV has the best of ``tv_weights``.
    """

    denoise: Callable[[Params, GaussianProcess], DenoiseFn]
    params: Params
    methods: Mapping[str, Mapping[str, Any]]
    tv_weights: Sequence[float]
    ablate_z: Collection[str]
    chunk: int
    seed: int
    mesh: Mesh | None


def evaluate(config: ConfigDict, state: TrainState, workdir: Path) -> dict[str, Any]:
    """Held-out volumes under every scan of the configuration."""
    chosen = config.reconstruct
    study = Study(
        make_denoise(config),
        distributed.gather(state.nets["model"].averaged(config.sample.ema)),
        {name: dict(changed) for name, changed in config.methods.items()},
        chosen.tv_weights, tuple(chosen.ablate_z), chosen.chunk, chosen.seed, mesh_of(state),
    )  # fmt: skip
    volumes = held_out_volumes(config)
    found = [
        case for name, asked in config.scans.items() for case in cases(name, asked, volumes, chosen.noise)
    ]
    return compare(study, found, workdir, "held-out volumes")


def compare(study: Study, found: Sequence[Case], workdir: Path, split: str) -> dict[str, Any]:
    """Mean figures of every method by the name of its cases, and a picture of each name's first volume."""
    names = list(dict.fromkeys(case.name for case in found))
    groups: dict[str, dict[str, float]] = {}
    for name in names:
        each: dict[str, list[dict[str, float]]] = {}
        weight: float | None = None
        for number, case in enumerate(case for case in found if case.name == name):
            volumes = {}
            for method, images, about in reconstructions(study, case, weight):
                weight = about.get("weight", weight)
                volumes[method] = images
                each.setdefault(method, []).append(measures.agreement(images, case.truth) | about)
                say(f"{name} volume {number} {method}: {each[method][-1]['psnr']:.2f} dB")
            each.setdefault("truth", []).append({"roughness": measures.roughness(case.truth)})
            if number == 0 and distributed.is_main():
                pictures.planes(
                    workdir / f"planes-{name}.png", volumes, case.truth, thickness=case.thickness, title=name
                )
        groups |= {f"{name}/{method}": _mean(rows) for method, rows in each.items()}
    n = len(found) // len(names)
    about = {"split": split, "extractor": "data range 1, images clipped to [0, 1]", "seed": study.seed}
    return {"figures": as_figures(groups, n_fake=n, n_real=n, **about), "rows": as_rows(groups, "")}


def cases(name: str, asked: Mapping[str, Any], volumes: Sequence[Images], noise: float) -> list[Case]:
    """Volumes as a scanner sees them, each with a mask and a noise of its own."""
    arguments = dict(asked)
    task, made = arguments.pop("task"), []
    for number, truth in enumerate(volumes):
        geometry = make_geometry(task, truth.shape, **arguments, seed=number)
        scan = simulate(geometry, truth, np.eye(4), (0.0, 1.0), noise=noise, seed=number)
        made.append(Case(name, scan, truth))
    return made


def held_out_volumes(config: ConfigDict) -> list[Images]:
    """The first volumes of the test split, in [0, 1], slices last."""
    source = build.open_source(config.data, "test")
    slices: dict[int, list[np.ndarray]] = {}
    for index in range(len(source)):
        item = source[index]
        volume = int(item["volume"])
        if volume not in slices and len(slices) == config.reconstruct.volumes:
            break
        slices.setdefault(volume, []).append(item["image"][..., 0])
    return [np.ascontiguousarray((np.stack(stack, axis=-1) + 1) / 2, np.float32) for stack in slices.values()]


def reconstructions(
    study: Study, case: Case, weight: float | None = None
) -> Iterator[tuple[str, Images, dict[str, float]]]:
    """FBP (or the zero-filled image), ADMM-TV with the best weight, and the diffusion methods.

    ``weight``: where to begin looking for the best.
    """
    problem = case.scan.problem()

    def about(images: Images) -> dict[str, float]:
        return {"misfit": measures.misfit(problem, images), "roughness": measures.roughness(images)}

    fbp = classical("fbp", case, problem, {})
    yield "fbp", fbp, about(fbp)
    tv, weight = best_tv(study, case, problem, weight)
    yield "admm_tv", tv, about(tv) | {"weight": weight}
    for number, (method, changed) in enumerate(study.methods.items()):
        variants = {method: dict(changed)}
        if case.name in study.ablate_z and number == 0 and "rho" in settings_of(method, {}):
            variants[f"{method}_without_z"] = {**changed, "weight": 0.0, "rho": 0.0}
        for name, chosen in variants.items():
            work = drive.Work(
                method, settings_of(method, chosen), study.denoise,
                seed=study.seed, chunk=study.chunk, mesh=study.mesh,
            )  # fmt: skip
            begun = time.monotonic()
            images, calls = drive.run(work, problem, study.params, progress=Counted(f"{case.name} {name}"))
            yield name, images, about(images) | {"nfe": float(calls), "seconds": time.monotonic() - begun}


def best_tv(
    study: Study, case: Case, problem: LinearProblem, near: float | None = None
) -> tuple[Images, float]:
    """ADMM-TV with the weight that comes nearest to the truth: a baseline that no user could tune so well.

    From ``near``, or the middle of the weights, uphill until the next one on both sides is worse.
    """
    tried: dict[int, tuple[float, Images]] = {}

    def quality(index: int) -> float:
        if not 0 <= index < len(study.tv_weights):
            return -np.inf
        if index not in tried:
            images = classical("admm_tv", case, problem, {"weight": study.tv_weights[index]})
            tried[index] = (measures.volume_psnr(images, case.truth), images)
        return tried[index][0]

    best = len(study.tv_weights) // 2 if near is None else list(study.tv_weights).index(near)
    while (step := max((-1, 1), key=lambda side: quality(best + side))) and quality(best + step) > quality(
        best
    ):
        best += step
    return tried[best][1], float(study.tv_weights[best])


def classical(method: str, case: Case, problem: LinearProblem, changed: Mapping[str, Any]) -> Images:
    """A classical reconstruction; all weights, and all volumes of a shape, share one program."""
    settings, geometry = settings_of(method, changed), case.scan.geometry
    if method == "fbp":
        return np.asarray(reconstruct_classically(method, geometry, problem, settings))
    weight = settings.pop("weight")
    fixed = tuple(sorted(settings.items()))
    return np.asarray(_solve(method, Geometry(geometry.task, geometry.shape), fixed, problem, weight))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(
    method: str, geometry: Geometry, fixed: tuple[tuple[str, Any], ...], problem: LinearProblem, weight: float
) -> Array:
    return reconstruct_classically(method, geometry, problem, {**dict(fixed), "weight": weight})


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
