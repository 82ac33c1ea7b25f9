"""DDIM: first-order steps between noise levels, from deterministic to ancestral."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffax import checks
from diffax.processes import bridge
from diffax.samplers.base import Sampler, StepContext, memoryless


def ddim(eta: float | Float[Array, ""] = 0.0) -> Sampler:
    r"""``x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 v) eps + eta sqrt(v) z``, v the bridge's variance.

    ``eta=0`` is Euler's method for the probability-flow ODE in ``sigma / alpha``; ``eta=1`` is the
    ancestral step. Song et al. 2020 (arXiv:2010.02502), eq. 12 and 16.
    """
    checks.require_number("eta", eta, -1e-9, 1.0 + 1e-9, "a number in [0, 1]")

    def step(context: StepContext, x: Array) -> Array:
        process, t, s = context.process, context.t, context.s
        x0, eps = predict(context, x, t)
        var = eta**2 * bridge(process, s, t).var
        direction = jnp.sqrt(jnp.maximum(process.sigma(s) ** 2 - var, 0.0))
        return process.alpha(s) * x0 + direction * eps + jnp.sqrt(var) * context.noise(x)

    def deterministic(context: StepContext, x: Array) -> Array:
        x0, eps = predict(context, x, context.t)
        return context.process.alpha(context.s) * x0 + context.process.sigma(context.s) * eps

    return memoryless(deterministic if isinstance(eta, float | int) and eta == 0 else step)


def predict(context: StepContext, x: Array, t: Array) -> tuple[Array, Array]:
    """``(x0, eps)`` of the denoiser at (x, t), with ``eps = (x - alpha x0) / sigma``."""
    x0 = context.estimate(x, t)
    return x0, (x - context.process.alpha(t) * x0) / context.process.sigma(t)
