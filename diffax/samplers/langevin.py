r"""Langevin dynamics at a noise level: ``x + step * score + sqrt(2 step) z`` leaves ``p_t`` in place."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax import checks
from diffax.processes import GaussianProcess, per_sample
from diffax.samplers.base import Carry, Sampler, StepContext, memoryless


def langevin(snr: float | Float[Array, ""] = 0.16, n_steps: int = 1, step_size: str = "level") -> Sampler:
    r"""The corrector of predictor-corrector sampling: stays at time t. Use as ``chain(langevin(), ddpm())``.

    The step size is

    * ``"level"``: ``2 snr^2 sigma_t^2``, the same for every x, so that the stationary law is ``p_t`` up to
      the step's own order;
    * ``"sample"``: ``2 (snr |z| / |score|)^2`` with each sample's own norms. A step that knows x and z
      tilts the stationary law: N(0, I) in d dimensions comes out with variance (1 + 2/d)^2;
    * ``"batch"``: the same with norms averaged over the batch, as in the paper: samples then depend on
      each other. For parity only.

    Song et al. 2021 (arXiv:2011.13456), algorithms 4 and 5.
    """
    checks.require_one_of("step_size", step_size, ("level", "sample", "batch"))
    checks.require_number("snr", snr, 0.0, np.inf, "a positive number")
    checks.require(n_steps >= 1, "n_steps", n_steps, "an integer >= 1")

    def width(context: StepContext, z: Array, score: Array) -> Array:
        if step_size == "level":
            return 2.0 * (snr * context.process.sigma(context.t)) ** 2
        z_norm, score_norm = _norms(z), _norms(score)
        if step_size == "batch":
            z_norm, score_norm = jnp.mean(z_norm), jnp.mean(score_norm)
        return per_sample(2.0 * (snr * z_norm / score_norm) ** 2, z)

    def step(context: StepContext, x: Array) -> Array:
        def move(index: Array, x: Array) -> Array:
            z, score = context.fold(index).noise(x), _score(context, x)
            return _move(x, z, score, width(context, z, score)).astype(x.dtype)

        return jax.lax.fori_loop(0, n_steps, move, x)

    return memoryless(step, n_steps)


def annealed_langevin(step_size: float | Float[Array, ""] = 2e-5, n_steps: int = 100) -> Sampler:
    r"""NCSN's sampler over the grid's noise levels: ``n_steps`` Langevin steps at each t, then on to s.

    At level t: ``a = step_size sigma_t^2 / sigma_min^2``, ``x += a/2 score + sqrt(a) z``, sigma_min that of
    the process's ``t_min``. In a step to zero a last denoising follows (Tweedie's formula). For processes
    with alpha = 1. Song & Ermon 2019 (arXiv:1907.05600), algorithm 1; 2020 (arXiv:2006.09011), section 3.3
    chooses ``step_size``, and adds the denoising.
    """
    checks.require_number("step_size", step_size, 0.0, np.inf, "a positive number")
    checks.require(n_steps >= 1, "n_steps", n_steps, "an integer >= 1")

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        process, t, s = context.process, context.t, context.s
        width = 0.5 * step_size * (process.sigma(t) / process.sigma(process.t_min)) ** 2

        def move(index: Array, x: Array) -> Array:
            return _move(x, context.fold(index).noise(x), _score(context, x), width).astype(x.dtype)

        x = jax.lax.fori_loop(0, n_steps, move, x)
        to_zero = process.sigma(s) <= 0.0
        x = jax.lax.cond(to_zero, lambda x: context.estimate(x, t).astype(x.dtype), lambda x: x, x)
        return x, carry

    def nfe(process: GaussianProcess, grid: Array, carry: Carry) -> Array:
        return n_steps * (grid.shape[0] - 1) + jnp.sum(process.sigma(grid[1:]) <= 0.0)

    return Sampler(lambda x: (), step, nfe)


def annealed_step_size(process: GaussianProcess, n_levels: int, n_steps: int) -> float:
    r"""The ``step_size`` that hands each level's variance on to the next.

    For geometric levels of ratio gamma, the variance of x around the mode after n steps should be that of
    the next level: the root of
    ``(1 - a)^{2n} (gamma^2 - c) + c = 1`` with ``c = 2a / (1 - (1 - a)^2)``, a = step_size / (2 sigma_min^2).
    Song & Ermon 2020 (arXiv:2006.09011), proposition 3 and technique 4.
    """
    checks.require(n_levels >= 2, "n_levels", n_levels, "an integer >= 2")
    first, last = float(process.sigma(process.t_max)), float(process.sigma(process.t_min))
    ratio2 = (first / last) ** (2.0 / (n_levels - 1))
    a = np.geomspace(1e-7, 0.5, 20_000)
    stationary = 2.0 * a / (1.0 - (1.0 - a) ** 2)
    error = np.abs((1.0 - a) ** (2 * n_steps) * (ratio2 - stationary) + stationary - 1.0)
    return float(2.0 * a[np.argmin(error)] * last**2)


def _score(context: StepContext, x: Array) -> Array:
    alpha, sigma = context.process.alpha(context.t), context.process.sigma(context.t)
    return (alpha * context.estimate(x, context.t) - x) / sigma**2


def _move(x: Array, z: Array, score: Array, width: Array) -> Array:
    return x + width * score + jnp.sqrt(2.0 * width) * z


def _norms(x: Array) -> Float[Array, "b"]:
    return jnp.sqrt(jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1))
