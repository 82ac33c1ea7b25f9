"""Every method by name: classical solvers, and posterior samplers around a prior trained on slices.

A method gets a problem with images in [0, 1] and gives images. Weights are of the normalised problem
(``diffax.inverse.normalise``), so that they carry over between sizes, views and scanners.
Chung et al. 2023 (CVPR, arXiv:2211.10655); the other samplers name their papers in ``diffax.inverse``.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffax import checks, inverse
from diffax.guidance import compose
from diffax.inverse import LinearProblem
from diffax.processes import EDM, VE, GaussianProcess, grids
from diffax.samplers import Sampler, chain, ddim, ddpm, langevin
from diffax.types import DenoiseTransform, Scalar
from experiments.diffusion_mbir.scan import Geometry

# of the normalised problem, images in [0, 1]; chosen on torsos 1,000,000 and the next, which are in no split
DEFAULTS: dict[str, dict[str, Any]] = {
    "fbp": {"window": "ram-lak"},
    "cg": {"steps": 30},
    "sirt": {"steps": 200},
    "admm_tv": {"weight": 1e-3, "rho": 0.1, "steps": 150, "n_cg": 4},
    "fista_tv": {"weight": 1e-3, "steps": 300},
    "dds": {"weight": 6e-4, "rho": 0.02, "steps": 50, "eta": 1.0, "n_cg": 5, "axes": ("z",)},
    "mbir": {"weight": 2e-3, "rho": 0.004, "steps": 2000, "n_cg": 1, "snr": 0.16},
    "dps": {"strength": 1.0, "steps": 200},
    "pigdm": {"steps": 50, "n_cg": 10},
    "ddnm": {"steps": 50, "n_cg": 10},
    "diffpir": {"strength": 1.0, "steps": 50, "n_cg": 10},
    "red_diff": {"weight": 0.25, "steps": 200, "learning_rate": 0.1},
    "replacement": {"strength": 1.0, "steps": 200, "n_cg": 5},
}
CLASSICAL = ("fbp", "cg", "sirt", "admm_tv", "fista_tv")
DIFFUSION = tuple(name for name in DEFAULTS if name not in CLASSICAL)


class Recipe(NamedTuple):
    """How a posterior is sampled: ``sample(keys, transform(prior), process, sampler, grid)``."""

    process: GaussianProcess
    grid: Float[Array, "points"]
    transform: DenoiseTransform
    sampler: Sampler
    x_init: Float[Array, "h w n"] | None = None  # in the network's units; None: noise


def settings_of(method: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The method's settings with some of them changed; ValueError for one that it does not have."""
    checks.require_one_of("--method", method, DEFAULTS)
    for name in changed:
        checks.require_one_of(f"--settings of {method}", name, DEFAULTS[method])
    return {**DEFAULTS[method], **changed}


def reconstruct_classically(
    method: str, geometry: Geometry, problem: LinearProblem, settings: Mapping[str, Any]
) -> Float[Array, "h w n"]:
    """One of :data:`CLASSICAL`, from a problem in the scanner's units; FBP of MRI is zero-filling."""
    own, steps = dict(settings), settings.get("steps", 0)
    if method == "fbp":
        if geometry.modality == "mr":
            return problem.operator.adjoint(problem.y)
        return inverse.fbp(problem.y, geometry.beam(), window=own["window"])
    unit = for_images(problem)
    if method == "cg":
        return inverse.cgls(unit, n_steps=steps).x
    if method == "sirt":
        allowed = "a scan of CT: it is for operators without negative entries"
        checks.require(geometry.modality == "ct", "--method", method, allowed)
        return inverse.sirt(unit, n_steps=steps).x
    if method == "admm_tv":
        return inverse.admm_tv(unit, own["weight"], rho=own["rho"], n_steps=steps, n_cg=own["n_cg"]).x
    return inverse.fista_tv(unit, own["weight"], n_steps=steps, bounds=(0.0, 1.0)).x


def for_images(problem: LinearProblem) -> LinearProblem:
    """A scanner's problem, its measurements weighed by their certainty, divided by ``||A||``."""
    return inverse.normalise(inverse.balance(problem))


def for_networks(problem: LinearProblem) -> LinearProblem:
    """The same, for images in [-1, 1] as networks see them."""
    return inverse.rescale(for_images(problem), 0.5, 0.5)


def diffusion_mbir(
    problem: LinearProblem,
    *,
    weight: Scalar,
    rho: Scalar,
    snr: float = 0.16,
    n_cg: int = 1,
    step_size: str = "sample",
) -> Sampler:
    """The paper's method: predictor, corrector, and ADMM-TV along z on the noisy iterate.

    ``chain(langevin(snr), ddpm("large"), tv_consistency(...))`` for a variance-exploding process: two network
    calls a step. Langevin steps by each slice's own norms (``step_size="batch"``: by means over the batch,
    as published, where slices then depend on each other). Algorithm 1.
    """
    consistency = inverse.tv_consistency(problem, weight=weight, rho=rho, n_cg=n_cg)
    return chain(langevin(snr, step_size=step_size), ddpm("large"), consistency)


def make_recipe(method: str, problem: LinearProblem, settings: Mapping[str, Any]) -> Recipe:
    """One of :data:`DIFFUSION`, from a problem that :func:`for_networks` made.

    In [-1, 1] A is half as large and total variation twice, hence the factors of the weights.
    """
    own, inner = dict(settings), problem
    steps = own.pop("steps")
    edm = EDM(t_min=0.005, t_max=80.0)
    # a floor below which CG would chase rounding errors
    noisy = inner._replace(noise_std=jnp.maximum(jnp.asarray(inner.noise_std), 1e-3))
    if method == "mbir":
        ve, weight = VE(sigma_min=0.01, sigma_max=80.0), own.pop("weight") / 2
        sampler = diffusion_mbir(inner, weight=weight, rho=own["rho"] / 4, snr=own["snr"], n_cg=own["n_cg"])
        return Recipe(ve, grids.uniform(ve, steps), compose(), sampler)
    grid = grids.karras(edm, steps, final="zero")
    if method == "dds":
        weight, rho = own.pop("weight") / 2, own.pop("rho") / 4
        sampler = inverse.dds_volume(inner, weight=weight, rho=rho, anchor=_trust(inner.noise_std), **own)
        return Recipe(edm, grid, compose(), sampler)
    if method == "dps":
        return Recipe(edm, grid, compose(), inverse.dps(inner, own["strength"]))
    if method == "replacement":
        corrector = inverse.replacement(inner, own["strength"], own["n_cg"])
        return Recipe(edm, grid, compose(), chain(corrector, ddpm()))
    if method == "red_diff":
        start = inverse.cgls(inner, n_steps=5).x
        sampler = inverse.red_diff(inner, learning_rate=own["learning_rate"], weight=own["weight"])
        return Recipe(edm, grid, compose(), sampler, start)
    transforms: dict[str, Callable[[], DenoiseTransform]] = {
        "pigdm": lambda: inverse.pigdm(noisy, edm, 0.5, own["n_cg"]),
        "ddnm": lambda: inverse.ddnm(inner, own["n_cg"]),
        "diffpir": lambda: inverse.diffpir(noisy, edm, own["strength"], own["n_cg"]),
    }
    return Recipe(edm, grid, transforms[method](), ddim(0.85))


def _trust(noise_std: Scalar) -> Callable[[GaussianProcess, Any], Any]:
    """How much the network's estimate weighs beside noisy data: ``noise_std^2 / r^2``, r its own error.

    ``1/r^2 = 1/prior_std^2 + 1/sigma^2`` with a prior_std of 0.5; noise-free data leave it no weight.
    """
    return lambda process, t: noise_std**2 * (4.0 + (process.alpha(t) / process.sigma(t)) ** 2)
