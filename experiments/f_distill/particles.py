r"""Particles in place of a generator: what each divergence does where both laws are known exactly.

The generator is N points, its law at noise level sigma the mixture of N Gaussians around them; the teacher's
is a mixture too. Hence both scores and the ratio r = p / q are exact, and the points follow

    dx = -(step / sigma) h(r) (x0_q - x0_p)   at   x + sigma eps

with a noise level and an eps of its own for each point and step, r clipped and h normalised by the library.
All points start on one mode: divergences that seek modes stay there, those that cover modes fill the ring.
Xu, Nie, Vahdat 2025 (arXiv:2502.15681).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from diffax import checks
from diffax.data.points import Mixture
from diffax.denoisers import empirical_denoiser, empirical_log_prob, mixture_denoiser, mixture_log_prob
from diffax.evaluation.modes import mixture_modes
from diffax.losses.distribution_matching import density_ratio, matching_direction, normalise_weight
from diffax.losses.divergences import Divergence
from diffax.processes import EDM, grids, perturb

_PROCESS = EDM()  # x = x0 + sigma eps, and t = sigma
Law = Callable[[Array, Array], tuple[Array, Array]]  # (x, sigma) -> E[x0 | x], log p(x) at noise level sigma


class Study(NamedTuple):
    """Settings of one run.

    * ``particles``: N. ``start_std``: how far they spread around the first mode at the start.
    * ``steps`` of size ``step_size``, a tenth of it after the share ``settle`` of them.
    * ``sigma_min``, ``sigma_max``: noise levels, equally likely in ``sigma^(1/7)``.
    """

    particles: int = 400
    start_std: float = 0.3
    steps: int = 3000
    step_size: float = 0.02
    settle: float = 0.7
    sigma_min: float = 0.02
    sigma_max: float = 5.0


class Spread(NamedTuple):
    """How points lie on a mixture.

    Attributes:
      modes: number of modes that hold over 2 % of the points within 3 standard deviations.
      total_variation: between the shares of points by their nearest mode and the mixture's weights.
      high_quality: share of points within 3 standard deviations of a mode.
    """

    modes: int
    total_variation: float
    high_quality: float


def teacher(mixture: Mixture) -> Law:
    """The law of a Gaussian mixture."""
    denoise, log_prob = mixture_denoiser(_PROCESS, *mixture), mixture_log_prob(_PROCESS, *mixture)
    return lambda x, sigma: (denoise(x, sigma, None), log_prob(x, sigma))


def cloud(points: Float[Array, "n d"]) -> Law:
    """The law of n equally likely points."""
    denoise, log_prob = empirical_denoiser(_PROCESS, points), empirical_log_prob(_PROCESS, points)
    return lambda x, sigma: (denoise(x, sigma, None), log_prob(x, sigma))


def direction(
    rule: Divergence,
    law: Law,
    levels: Float[Array, "levels"],
    points: Float[Array, "n d"],
    key: Key[Array, ""],
) -> Float[Array, "n d"]:
    """``g = h(r) / sigma (x0_q - x0_p)`` of each point, for one draw of noise levels and noise."""
    level_key, noise_key = jax.random.split(key)
    sigma = jax.random.choice(level_key, levels, points.shape[:1])
    x = perturb(_PROCESS, points, jax.random.normal(noise_key, points.shape), sigma)
    (teacher_x0, log_p), (own_x0, log_q) = law(x, sigma), cloud(points)(x, sigma)
    weight = normalise_weight(rule.h(density_ratio(log_p - log_q))) / sigma
    return matching_direction(teacher_x0, own_x0, weight)


def noise_levels(study: Study) -> Float[Array, "levels"]:
    """1,000 noise levels, evenly in ``sigma^(1/7)``."""
    return grids.karras(EDM(t_min=study.sigma_min, t_max=study.sigma_max), 999)


def start(study: Study, mixture: Mixture, key: Key[Array, ""]) -> Float[Array, "n d"]:
    """All points on the first mode."""
    noise = jax.random.normal(key, (study.particles, mixture.means.shape[1]))
    return mixture.means[0] + study.start_std * noise


def move(
    study: Study,
    rule: Divergence,
    mixture: Mixture,
    points: Float[Array, "n d"],
    index: Int[Array, ""],
    key: Key[Array, ""],
) -> Float[Array, "n d"]:
    """The points after the step of that index."""
    size = study.step_size * jnp.where(index < study.settle * study.steps, 1.0, 0.1)
    return points - size * direction(rule, teacher(mixture), noise_levels(study), points, key)


@partial(jax.jit, static_argnums=(0, 1))
def run(study: Study, rule: Divergence, mixture: Mixture, key: Key[Array, ""]) -> Float[Array, "n d"]:
    """The points after all steps, from one mode."""
    checks.require(study.steps >= 1, "steps", study.steps, "at least 1")
    start_key, step_key = jax.random.split(key)

    def step(points: Array, index: Array) -> tuple[Array, None]:
        return move(study, rule, mixture, points, index, jax.random.fold_in(step_key, index)), None

    return jax.lax.scan(step, start(study, mixture, start_key), jnp.arange(study.steps))[0]


def measure(points: Float[Array | np.ndarray, "n d"], mixture: Mixture) -> Spread:
    """Modes reached and how evenly."""
    near = mixture_modes(points, *mixture, min_count=len(points) // 50 + 1)
    nearest = mixture_modes(points, *mixture, within=1e6)  # no point is rejected
    return Spread(near.modes, nearest.total_variation, near.high_quality)
