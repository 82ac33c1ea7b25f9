"""The reverse-time SDE, by Euler-Maruyama."""

import jax.numpy as jnp
from jaxtyping import Array

from diffax.processes import drift_diffusion
from diffax.samplers.base import Sampler, StepContext, memoryless


def euler_maruyama() -> Sampler:
    r"""``x_s = x - (f x - g^2 score)(t - s) + g sqrt(t - s) z``, ``score = (alpha x0 - x) / sigma^2``.

    A step to zero returns the denoised estimate. Song et al. 2021 (arXiv:2011.13456), eq. 6.
    """

    def step(context: StepContext, x: Array) -> Array:
        process, t, s = context.process, context.t, context.s
        x0 = context.estimate(x, t)
        to_zero = process.sigma(s) <= 0.0
        width = jnp.where(to_zero, 0.0, t - s)  # t - s may be infinite there
        f, g2 = drift_diffusion(process, t)
        score = (process.alpha(t) * x0 - x) / process.sigma(t) ** 2
        moved = x - (f * x - g2 * score) * width + jnp.sqrt(g2 * width) * context.noise(x)
        return jnp.where(to_zero, x0, moved)

    return memoryless(step)
