"""Held-out volumes, measured and reconstructed: every scan of the configuration, every method."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from diffax.inverse import LinearProblem
from diffax.training import TrainState, distributed, mesh_of
from experiments import build
from experiments.diffusion_mbir import drive, measures, pictures
from experiments.diffusion_mbir.method import reconstruct_classically, settings_of
from experiments.diffusion_mbir.priors import make_denoise
from experiments.diffusion_mbir.scan import Geometry, Scan, make_geometry, simulate
from experiments.figures import as_figures, as_rows
from experiments.progress import Counted, say

Images = Float[np.ndarray, "h w n"]


class Case(NamedTuple):
    """One held-out volume under one scanner."""

    name: str
    scan: Scan
    truth: Images

    @property
    def geometry(self) -> Geometry:
        return self.scan.geometry


def evaluate(config: ConfigDict, state: TrainState, workdir: Path) -> dict[str, Any]:
    """Mean figures over volumes of every scan and method, and a picture of each scan's first volume."""
    settings = config.reconstruct
    params = distributed.gather(state.nets["model"].averaged(config.sample.ema))
    found: dict[str, dict[str, float]] = {}
    for name, asked in config.scans.items():
        each: dict[str, list[dict[str, float]]] = {}
        for number, case in enumerate(cases(config, name, asked)):
            volumes = {}
            for method, images, about in reconstructions(config, case, params, mesh_of(state)):
                volumes[method] = images
                figures = measures.agreement(images, case.truth) | about
                each.setdefault(method, []).append(figures)
                say(f"{name} volume {number} {method}: {figures['psnr']:.2f} dB")
            each.setdefault("truth", []).append({"roughness": measures.roughness(case.truth)})
            if number == 0 and distributed.is_main():
                pictures.planes(workdir / f"planes-{name}.png", volumes, case.truth, title=name)
        found |= {f"{name}/{method}": _mean(rows) for method, rows in each.items()}
    about = {"split": "held-out volumes", "extractor": "PSNR with data range 1, images clipped to [0, 1]"}
    figures = as_figures(found, n_fake=settings.volumes, n_real=settings.volumes, seed=settings.seed, **about)
    return {"figures": figures, "rows": as_rows(found, "")}


def cases(config: ConfigDict, name: str, asked: Mapping[str, Any]) -> Iterator[Case]:
    """The held-out volumes as a scanner sees them."""
    arguments = dict(asked)
    task = arguments.pop("task")
    for number, truth in enumerate(held_out_volumes(config)):
        geometry = make_geometry(task, truth.shape, **arguments, seed=number)
        scan = simulate(geometry, truth, np.eye(4), (0.0, 1.0), noise=config.reconstruct.noise, seed=number)
        yield Case(name, scan, truth)


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
    config: ConfigDict, case: Case, params: Any, mesh: Any
) -> Iterator[tuple[str, Images, dict[str, float]]]:
    """FBP (or the zero-filled image), ADMM-TV with the best weight, and the diffusion methods."""
    problem = case.scan.problem()
    fbp = classical("fbp", case, problem, {})
    yield "fbp", fbp, {"misfit": measures.misfit(problem, fbp), "roughness": measures.roughness(fbp)}
    tv, weight = best_tv(config, case, problem)
    yield "admm_tv", tv, _about(problem, tv) | {"weight": weight}
    for number, (method, changed) in enumerate(config.methods.items()):
        variants = {method: dict(changed)}
        if config.reconstruct.ablate_z and number == 0:
            variants[f"{method}_without_z"] = {**changed, "axes": ()}
        for name, chosen in variants.items():
            work = drive.Work(
                method, settings_of(method, chosen), make_denoise(config),
                seed=config.reconstruct.seed, chunk=config.reconstruct.chunk, mesh=mesh,
            )  # fmt: skip
            images, calls = drive.run(work, problem, params, progress=Counted(f"{case.name} {name}"))
            yield name, images, _about(problem, images) | {"nfe": float(calls)}


def best_tv(config: ConfigDict, case: Case, problem: LinearProblem) -> tuple[Images, float]:
    """ADMM-TV with the weight that comes nearest to the truth: a baseline that no user could tune so well."""
    tried = {}
    for weight in config.reconstruct.tv_weights:
        images = classical("admm_tv", case, problem, {"weight": weight})
        tried[weight] = (measures.agreement(images, case.truth)["psnr"], images)
    weight = max(tried, key=lambda w: tried[w][0])
    return tried[weight][1], float(weight)


def classical(method: str, case: Case, problem: LinearProblem, changed: Mapping[str, Any]) -> Images:
    """A classical reconstruction, compiled once for all weights."""
    settings = settings_of(method, changed)
    traced = {"weight": settings.pop("weight")} if "weight" in settings else {}
    key = (method, case.geometry.task, problem.operator.out_shape)
    if key not in _COMPILED:
        geometry = case.geometry

        def solve(problem: LinearProblem, traced: Mapping[str, Any]) -> Any:
            return reconstruct_classically(method, geometry, problem, {**settings, **traced})

        _COMPILED[key] = jax.jit(solve)
    return np.asarray(_COMPILED[key](problem, traced))


_COMPILED: dict[Any, Any] = {}


def _about(problem: LinearProblem, images: Images) -> dict[str, float]:
    return {"misfit": measures.misfit(problem, images), "roughness": measures.roughness(images)}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
