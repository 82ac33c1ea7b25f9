"""Sampling with part of the sample known: replacement at every noise level, with RePaint's resampling."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffax import checks
from diffax.processes import transition
from diffax.samplers.base import Carry, Sampler, StepContext


def inpaint(
    sampler: Sampler,
    known: Float[Array, "#b ..."],
    mask: Bool[Array, "#b ..."] | Float[Array, "#b ..."],
    n_resample: int = 1,
) -> Sampler:
    r"""Keep ``known`` where ``mask`` is true, and let any sampler fill in the rest.

    After each step to s the known part is replaced by ``alpha_s known + sigma_s z``. With ``n_resample > 1``
    the step is repeated: back to t by the forward process, and again, which lets the two parts agree. Even
    then it is no draw from the posterior: the known part's noise is fresh at each step, and on a mixture
    whose posterior is known plain replacement is far off (``notebooks/03``). The program grows with
    ``n_resample``.
    Song et al. 2021 (arXiv:2011.13456), section I.2; Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1.
    """
    checks.require(n_resample >= 1, "n_resample", n_resample, "an integer >= 1")

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        for repeat in range(n_resample):
            x, carry = sampler.step(context.fold(3 * repeat), x, carry)
            x = _replace(context.fold(3 * repeat + 1), x)
            if repeat + 1 < n_resample:
                x = _return(context.fold(3 * repeat + 2), x)
        return x, carry

    def _replace(context: StepContext, x: Array) -> Array:
        process, s = context.process, context.s
        noised = process.alpha(s) * known + process.sigma(s) * context.noise(x)
        return jnp.where(mask, noised, x)

    def _return(context: StepContext, x: Array) -> Array:
        scale, variance = transition(context.process, context.s, context.t)
        return scale * x + jnp.sqrt(variance) * context.noise(x)

    def nfe(process: object, grid: Array, carry: Carry) -> Array:
        return n_resample * sampler.nfe(process, grid, carry)  # type: ignore[arg-type]

    return Sampler(sampler.init, step, nfe)
