"""Reconstruction: images from part of their k-space, or from few projections, with a prior of images.

At every step the network's estimate is moved to the nearest image that agrees with the measurements
(``diffax.inverse.ddnm``): for k-space by replacing what was measured (Song et al. 2022, arXiv:2111.08005),
for projections by conjugate gradients (Wang et al. 2022, arXiv:2212.00490). The answer is the mean of
``config.eval.draws`` samples. Measurements are without noise; the method for noisy ones, and for volumes, is
the experiment ``diffusion_mbir``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax import checks
from diffax.guidance import compose, static_threshold
from diffax.inverse import LinearProblem, admm_tv, ddnm, fbp, normalise, residual, to_batch, to_images
from diffax.operators import (
    LinearOperator,
    ParallelBeam,
    cartesian_mask,
    cartesian_mri,
    real_images,
    true_acceleration,
)
from diffax.types import DenoiseTransform, Keys
from experiments.medical_survey.tasks import base, images, measures, pictures
from experiments.medical_survey.tasks.images import NULL, Prior, condition

Images = Float[np.ndarray, "n h w c"]
Draws = Float[np.ndarray, "d n h w c"]


class Scan(NamedTuple):
    """One way of measuring: the problem, the transform that agrees with it, and its usual first answer."""

    problem: LinearProblem
    consistent: DenoiseTransform
    simple: tuple[str, Images]
    tv_weight: float


def make_task(config: ConfigDict) -> base.Task:
    """The task by each of ``config.eval.scans``, "mri" and "ct"."""
    prior = images.make_prior(config)
    for name in config.eval.scans:
        checks.require_one_of("config.eval.scans", name, SCANS)

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        truth = prior.cases.held_out(config.eval.n)[prior.field]
        found: dict[str, dict[str, Any]] = {}
        for name in config.eval.scans:
            shown, own = measure(prior, networks, name, truth)
            for group, values in own.items():
                found.setdefault(group, {}).update({f"{name}_{k}": v for k, v in values.items()})
            pictures.rows(workdir / f"reconstructed-{name}.png", shown)
        about = {"n_real": len(truth), "n_fake": len(truth), "seed": config.seed}
        return measures.report(found, **about, split=prior.cases.split, extractor=measures.AGREEMENT)

    def draw(networks: base.Networks, workdir: Path) -> None:
        truth = prior.cases.held_out(config.sample.n)[prior.field]
        for name in config.eval.scans:
            shown, _ = measure(prior, networks, name, truth)
            pictures.rows(workdir / f"samples-{name}.png", shown)

    return base.Task(prior.needs, lambda key: images.init(prior, key), images.losses(prior), evaluate, draw)


def measure(
    prior: Prior, networks: base.Networks, name: str, truth: Images
) -> tuple[dict[str, Images], dict[str, dict[str, Any]]]:
    """Pictures by name, and their agreement with the truth and with the measurements."""
    scan = SCANS[name](prior.config, jnp.asarray(truth))
    drawn = reconstruct(prior, networks, scan, truth.shape)
    tv = admm_tv(scan.problem, scan.tv_weight, axes=("x", "y"), n_steps=prior.config.eval.tv_steps).x
    answers = {"": drawn.mean(axis=0), "sample": drawn[0], scan.simple[0]: scan.simple[1]}
    answers["tv"] = np.asarray(to_batch(tv, jnp.asarray(truth)))
    found = {}
    for group, answer in answers.items():
        own = measures.agreement(np.clip(answer, -1, 1), truth)
        found[group] = own | {"data_residual": misfit(scan.problem, answer)}
    shown = {"truth": truth, **{group or "mean of samples": answer for group, answer in answers.items()}}
    return shown | {"spread x 10": 20 * drawn.std(axis=0) - 1}, found


def reconstruct(prior: Prior, networks: base.Networks, scan: Scan, shape: tuple[int, ...]) -> Draws:
    """(draws, n, h, w, c) samples for each image, made to agree with its measurements once more at the end.

    What agrees with measurements is an affine set, so the samples' mean agrees as well; it has the least
    squared error, and their spread shows what the measurements leave open.
    """
    asked, process = prior.config.eval, prior.model.process
    transform = compose(static_threshold(), scan.consistent)
    run = base.make_sample(prior.config, prior.model, transform, asked.steps)
    last = scan.consistent(lambda x, t, cond: x)
    null, end = condition(jnp.full(shape[0], NULL)), jnp.full(shape[0], process.t_min)

    def one(keys: Keys) -> Array:
        return last(run(networks["model"], keys, null), end, None)

    keys = jax.random.split(jax.random.key(prior.config.seed + 25), (asked.draws, shape[0]))
    return np.stack([np.asarray(one(k)) for k in keys])


def misfit(problem: LinearProblem, answer: Images) -> float:
    """``|A x - y| / |y|`` over all images."""
    short = residual(problem, to_images(problem, jnp.asarray(answer)))
    return float(jnp.linalg.norm(short) / jnp.linalg.norm(problem.y))


def mri_scan(config: ConfigDict, truth: Array) -> Scan:
    """Lines of k-space, some in the middle and others at random, of one coil and without noise."""
    asked, shape = config.eval, _layout(truth)
    mask = cartesian_mask(shape, "uniform1d", asked.acceleration, centre=asked.centre, seed=config.seed)
    problem = measured(real_images(cartesian_mri(mask, shape)), truth)
    zero_filled = to_batch(problem.operator.adjoint(problem.y), truth)
    return Scan(problem, ddnm(problem, 4), ("zero_filled", np.asarray(zero_filled)), asked.tv_mri)


def ct_scan(config: ConfigDict, truth: Array) -> Scan:
    """Projections from evenly spaced angles over half a turn, without noise; images are shifted to [0, 2]."""
    asked, shape = config.eval, _layout(truth)
    angles = np.arange(asked.views) * np.pi / asked.views
    geometry = ParallelBeam(shape, angles, detectors=int(1.5 * shape[0]))
    problem = measured(geometry.operator(), truth)
    air = -jnp.ones_like(truth)  # what lies outside of every ray's support
    inside = measured(geometry.operator(), truth - air)
    first = to_batch(fbp(inside.y, geometry, window="hann"), truth) + air
    problem = normalise(problem)
    return Scan(problem, ddnm(problem, asked.cg_steps), ("fbp", np.asarray(first)), asked.tv_ct)


SCANS: dict[str, Callable[[ConfigDict, Array], Scan]] = {"mri": mri_scan, "ct": ct_scan}


def acceleration(config: ConfigDict) -> float:
    """Places of k-space over sampled ones, as the whole number of lines allows."""
    asked, size = config.eval, config.data.size
    return true_acceleration(
        cartesian_mask((size, size), "uniform1d", asked.acceleration, centre=asked.centre, seed=config.seed)
    )


def _layout(truth: Array) -> tuple[int, int, int]:
    return truth.shape[1], truth.shape[2], truth.shape[0]


def measured(operator: LinearOperator, truth: Array) -> LinearProblem:
    """The problem whose measurements are those of the truth, without noise."""
    empty = LinearProblem(operator, jnp.zeros(operator.out_shape))
    return LinearProblem(operator, operator(to_images(empty, truth)))
