"""Ancestral sampling: draw x_s from the forward process's posterior, as DDPM does, or noise x0 afresh."""

import jax.numpy as jnp
from jaxtyping import Array

from diffax import checks
from diffax.processes import bridge, normal, perturb, transition
from diffax.samplers.base import Sampler, StepContext, memoryless
from diffax.types import Cond


def posterior(latent: int = 0) -> Sampler:
    r"""``x_s ~ q(x_s | x_t, x0)`` with ``x0 = denoise(x_t)``, the exact bridge.

    Exact where the denoiser *samples* ``x0`` from its posterior; with the posterior mean it is DDPM with
    the smaller of its two variances. With ``latent = k`` the denoiser finds a fresh ``z ~ N(0, I_k)`` for
    each sample and step in ``cond["z"]``. Xiao et al. 2022 (arXiv:2112.07804), eq. 4 and 7.
    """
    checks.require(latent >= 0, "latent", latent, "a number of dimensions, 0 for none")

    def step(context: StepContext, x: Array) -> Array:
        c_xt, c_x0, var = bridge(context.process, context.s, context.t)
        mean = c_xt * x + c_x0 * context.estimate(x, context.t, *draw_latent(context, latent))
        return mean + jnp.sqrt(var) * context.noise(x)

    return memoryless(step)


def direct(latent: int = 0) -> Sampler:
    """``x_s = f(x_t, t)`` for a network f that draws the next point of the chain itself, and not x0.

    ``latent`` as for :func:`posterior`. Xiao et al. 2022, section 5.3 (direct denoising).
    """
    checks.require(latent >= 0, "latent", latent, "a number of dimensions, 0 for none")

    def step(context: StepContext, x: Array) -> Array:
        return context.estimate(x, context.t, *draw_latent(context, latent))

    return memoryless(step)


def renoise() -> Sampler:
    """``x_s = alpha_s x0 + sigma_s n`` with fresh noise n: what a student of one or few steps takes.

    Each x0 depends on x_t alone, which is forgotten otherwise; a step to zero noise returns x0 itself. Song
    et al. 2023 (arXiv:2303.01469), algorithm 1.
    """

    def step(context: StepContext, x: Array) -> Array:
        times = jnp.broadcast_to(context.s, x.shape[:1])
        return perturb(context.process, context.estimate(x, context.t), context.noise(x), times)

    return memoryless(step)


def draw_latent(context: StepContext, latent: int) -> tuple[Cond, ...]:
    """What ``estimate`` gets beside x and t: ``{"z": z}`` with a fresh ``z ~ N(0, I)``; nothing for 0."""
    return ({"z": normal(context.fold(1).keys, (latent,))},) if latent else ()


def ddpm(variance: str = "small") -> Sampler:
    r"""DDPM's ancestral sampler for any process and any grid. Ho et al. 2020 (arXiv:2006.11239), algorithm 2.

    ``variance="small"`` is the posterior's ``v sigma_s^2 / sigma_t^2``; ``"large"`` is the forward step's
    own v (beta_t on the full table). No noise is added in a step to zero.
    """
    checks.require_one_of("variance", variance, ("small", "large"))
    if variance == "small":
        return posterior()

    def step(context: StepContext, x: Array) -> Array:
        process, t, s = context.process, context.t, context.s
        c_xt, c_x0, _ = bridge(process, s, t)
        forward = jnp.where(process.sigma(s) > 0.0, transition(process, s, t)[1], 0.0)
        mean = c_xt * x + c_x0 * context.estimate(x, t)
        return mean + jnp.sqrt(forward) * context.noise(x)

    return memoryless(step)
