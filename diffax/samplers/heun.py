r"""Heun's second-order method for the probability-flow ODE, with EDM's churn.

In ``y = x / alpha`` and ``r = sigma / alpha`` every process has the same ODE ``dy/dr = eps(y, r)``; the
step is taken there, so schedules that agree in signal-to-noise ratio give the same samples.
Karras et al. 2022 (arXiv:2206.00364), algorithms 1 and 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax import checks
from diffax.processes import GaussianProcess, noise_to_signal
from diffax.samplers.base import Carry, Sampler, StepContext
from diffax.samplers.ddim import predict


def heun(
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = np.inf,
    noise_scale: float = 1.0,
) -> Sampler:
    r"""Two denoiser calls a step; one in a step to zero, which is Euler's.

    Args:
      churn: EDM's ``S_churn``: each step first raises the noise level by the factor
        ``1 + min(churn / n, sqrt(2) - 1)`` (never above the process's ``t_max``), adding fresh noise.
      churn_min, churn_max: the levels ``sigma / alpha`` between which churn acts.
      noise_scale: EDM's ``S_noise``, the scale of the fresh noise.
    """
    checks.require_number("churn", churn, -1e-9, np.inf, "a number >= 0")

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        t = context.t
        if churn > 0.0:
            x, t = _churn(context, x, churn, (churn_min, churn_max), noise_scale)
        return _heun_step(context, x, t), carry

    def nfe(process: GaussianProcess, grid: Array, carry: Carry) -> Array:
        return jnp.sum(jnp.where(process.sigma(grid[1:]) > 0.0, 2, 1))

    return Sampler(lambda x: (), step, nfe)


def _heun_step(context: StepContext, x: Array, t: Array) -> Float[Array, "b ..."]:
    """Euler from t to s, then the trapezoidal correction ``(r_s - r_t) (eps_s - eps_t) / 2`` in y."""
    process, s = context.process, context.s
    x0, eps = predict(context, x, t)
    euler = process.alpha(s) * x0 + process.sigma(s) * eps

    def correct(euler: Array) -> Array:
        width = process.sigma(s) - process.alpha(s) * noise_to_signal(process, t)
        # where alpha(t) = 0 the level is infinite: that one step stays Euler's
        width = jnp.where(jnp.isfinite(width), width, 0.0)
        return euler + 0.5 * width * (predict(context, euler, s)[1] - eps)

    return jax.lax.cond(process.sigma(s) > 0.0, correct, lambda euler: euler, euler)


def _churn(
    context: StepContext, x: Array, churn: float, between: tuple[float, float], noise_scale: float
) -> tuple[Array, Array]:
    """Raise the noise level: ``r' = r (1 + gamma)``, ``y += sqrt(r'^2 - r^2) z``."""
    process, t = context.process, context.t
    level = noise_to_signal(process, t)
    active = (level >= between[0]) & (level <= between[1])
    gamma = jnp.where(active, min(churn / context.n_steps, np.sqrt(2.0) - 1.0), 0.0)
    raised = jnp.minimum(level * (1.0 + gamma), noise_to_signal(process, process.t_max))
    raised_t = jnp.where(raised > level, process.time(-2.0 * jnp.log(raised)), t)
    added = jnp.sqrt(jnp.maximum(raised**2 - level**2, 0.0)) * noise_scale
    rescaled = process.alpha(raised_t) / process.alpha(t)
    return rescaled * x + process.alpha(raised_t) * added * context.noise(x), raised_t
