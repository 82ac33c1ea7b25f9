r"""The denoising loss, in one form for every framework.

``L = E_{t, eps} w(t) |denoise(alpha x0 + sigma eps, t) - x0|^2 / d``. Weightings make it DDPM's, EDM's or
a flow's loss (:mod:`diffax.losses.weighting`); :func:`score_matching_loss` is the same in NCSN's terms.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffax.losses.weighting import Weighting, simple
from diffax.processes import GaussianProcess, perturb
from diffax.processes.times import TimeSampler, stratified
from diffax.types import Cond, DenoiseFn


class DenoisingLoss(NamedTuple):
    """The mean loss, and per sample: the loss, the time, and the unweighted squared error of x0."""

    loss: Float[Array, ""]
    per_sample: Float[Array, "b"]
    t: Float[Array, "b"]
    x0_error: Float[Array, "b"]


def denoising_loss(
    key: Key[Array, ""],
    denoise: DenoiseFn,
    process: GaussianProcess,
    x0: Float[Array, "b ..."],
    *,
    cond: Cond | None = None,
    times: TimeSampler | None = None,
    weighting: Weighting | None = None,
    mask: Float[Array, "b ..."] | None = None,
) -> DenoisingLoss:
    """Draw times and noise for a batch from one key, and measure the denoiser.

    ``times`` defaults to stratified uniform ones, ``weighting`` to DDPM's ``simple("eps")``. Squared errors
    are averaged over the d dimensions of a sample, or with a ``mask`` (of a shape that broadcasts to that of
    ``x0``) over those where it is 1.
    """
    time_key, noise_key = jax.random.split(key)
    t = (times or stratified())(time_key, process, x0.shape[0]).astype(x0.dtype)
    eps = jax.random.normal(noise_key, x0.shape, x0.dtype)
    estimate = denoise(perturb(process, x0, eps, t), t, cond)
    error = _mean((estimate - x0) ** 2, mask)
    weighted = (weighting or simple("eps"))(process, t) * error
    return DenoisingLoss(jnp.mean(weighted), weighted, t, error)


def _mean(values: Float[Array, "b ..."], mask: Float[Array, "b ..."] | None) -> Float[Array, "b"]:
    """Of each sample's numbers, or of those that the mask leaves."""
    flat = values.reshape(values.shape[0], -1)
    if mask is None:
        return jnp.mean(flat, axis=1)
    return jnp.average(flat, axis=1, weights=jnp.broadcast_to(mask, values.shape).reshape(flat.shape))


def score_matching_loss(
    key: Key[Array, ""],
    denoise: DenoiseFn,
    process: GaussianProcess,
    x0: Float[Array, "b ..."],
    *,
    times: TimeSampler,
    cond: Cond | None = None,
) -> DenoisingLoss:
    r"""NCSN's denoising score matching over noise levels, weighted by ``lambda(sigma) = sigma^2``.

    ``L = 1/2 E_sigma E sigma^2 |s(x + sigma eps) + eps / sigma|^2``, summed over dimensions. Geometric
    levels:
    ``times.discrete(grids.log_snr(VE(...), L - 1))``. Song & Ermon 2019 (arXiv:1907.05600), eq. 5-6.
    """
    result = denoising_loss(key, denoise, process, x0, cond=cond, times=times, weighting=simple("eps"))
    half_d = 0.5 * x0[0].size
    return result._replace(loss=half_d * result.loss, per_sample=half_d * result.per_sample)


def drop_labels(key: Key[Array, ""], cond: Cond, rate: float) -> dict[str, Any]:
    """Mark each sample of a training batch unconditional with probability ``rate``."""
    batch = jax.tree.leaves(dict(cond))[0].shape[0]
    return {**cond, "unconditional": jax.random.bernoulli(key, rate, (batch,))}
