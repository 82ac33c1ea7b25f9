"""DPM-Solver++(2M): second order at one denoiser call a step, by remembering the last estimate."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax import checks
from diffax.processes import marginal
from diffax.samplers.base import Carry, Sampler, StepContext


def dpmpp_2m(eta: float | Float[Array, ""] = 0.0) -> Sampler:
    r"""Exponential integrator in ``lambda = log(alpha / sigma)`` with a linear extrapolation of x0.

    With ``h = lambda_s - lambda_t``, ``q`` the last step's h over this one's, and
    ``D = x0 + (x0 - x0_last) / (2 q)``:
    ``x_s = (sigma_s/sigma_t) e^{-eta h} x + alpha_s (1 - e^{-(1 + eta) h}) D
    + sigma_s sqrt(1 - e^{-2 eta h}) z``.

    ``eta=0`` solves the ODE (Lu et al. 2022, arXiv:2211.01095, algorithm 2), ``eta=1`` the reverse SDE (its
    SDE variant, midpoint form). The first step and a step to zero are of first order.
    """
    checks.require_number("eta", eta, -1e-9, np.inf, "a number >= 0")

    def init(x: Array) -> Carry:
        return jnp.zeros_like(x), jnp.full((), jnp.nan, x.dtype)

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        x0_last, half_last = carry
        now, then = marginal(context.process, context.t), marginal(context.process, context.s)
        half = 0.5 * now.log_snr
        h = 0.5 * then.log_snr - half
        x0 = context.estimate(x, context.t)
        slope = 0.5 * h / (half - half_last)  # NaN in the first step, infinite in a step to zero
        extrapolated = x0 + jnp.where(jnp.isfinite(slope), slope, 0.0) * (x0 - x0_last)
        decay = _decay(eta, h)
        mean = then.sigma / now.sigma * decay * x - then.alpha * jnp.expm1(-(1.0 + eta) * h) * extrapolated
        carry = (x0, half.astype(half_last.dtype))
        if isinstance(eta, float | int) and eta == 0:  # drawing noise would cost more than the step
            return mean, carry
        return mean + then.sigma * jnp.sqrt(jnp.maximum(1.0 - decay**2, 0.0)) * context.noise(x), carry

    def nfe(process: object, grid: Array, carry: Carry) -> Array:
        return jnp.asarray(grid.shape[0] - 1)

    return Sampler(init, step, nfe)


def _decay(eta: float | Array, h: Array) -> Array:
    """``exp(-eta h)``, 1 where eta is zero even for an infinite h."""
    return jnp.exp(jnp.where(jnp.asarray(eta) == 0.0, 0.0, -eta * h))
