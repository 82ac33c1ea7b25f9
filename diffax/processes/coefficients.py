r"""Everything that follows from alpha(t) and sigma(t): marginals, the SDE, bridges, the prior.

For ``x_t = alpha x_0 + sigma eps`` the forward SDE is ``dx = f x dt + g dw`` with
``f = alpha'/alpha`` and ``g^2 = 2 sigma sigma' - 2 f sigma^2`` (Kingma et al. 2021, arXiv:2107.00630,
appendix; Song et al. 2021, arXiv:2011.13456, eq. 29).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from diffax.processes.gaussian import GaussianProcess
from diffax.types import Keys


class Marginal(NamedTuple):
    """``q(x_t | x_0) = N(alpha x_0, sigma^2 I)`` and its log signal-to-noise ratio, all shaped as t."""

    alpha: Array
    sigma: Array
    log_snr: Array


class Bridge(NamedTuple):
    """``q(x_s | x_t, x_0) = N(c_xt x_t + c_x0 x_0, var I)``, all shaped as t."""

    c_xt: Array
    c_x0: Array
    var: Array


def marginal(process: GaussianProcess, t: Float[ArrayLike, "..."]) -> Marginal:
    """alpha(t), sigma(t) and ``log_snr = 2 log(alpha / sigma)``."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return Marginal(alpha, sigma, 2.0 * (jnp.log(alpha) - jnp.log(sigma)))


def noise_to_signal(process: GaussianProcess, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """``sigma(t) / alpha(t)``: the noise level of ``x_t / alpha``, on which schedules agree."""
    return process.sigma(t) / process.alpha(t)


def perturb(
    process: GaussianProcess, x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], t: Float[Array, "b"]
) -> Float[Array, "b ..."]:
    """``alpha(t) x0 + sigma(t) eps``, one time per sample."""
    return per_sample(process.alpha(t), x0) * x0 + per_sample(process.sigma(t), x0) * eps


def perturb_noisy(
    process: GaussianProcess,
    y: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    t: Float[Array, "b"],
    std: float | Float[Array, ""],
) -> Float[Array, "b ..."]:
    """x_t of the x0 behind ``y = x0 + std n``, n from N(0, 1): ``alpha y`` and the noise it lacks.

    ``alpha(t) y + sqrt(sigma(t)^2 - (alpha(t) std)^2) eps`` is distributed as :func:`perturb`'s where t's
    noise is at least y's, ``sigma / alpha >= std``; earlier it is ``alpha y`` alone. Learning a second
    acquisition of x0 from it needs no clean data (Lehtinen et al. 2018, arXiv:1803.04189, without diffusion).
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    lacks = jnp.sqrt(jnp.maximum(sigma**2 - (alpha * std) ** 2, 0.0))
    return per_sample(alpha, y) * y + per_sample(lacks, y) * eps


def per_sample(value: Shaped[Array, "*b"], like: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Append axes of length one, so that one value per sample (or a scalar) broadcasts over samples."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def rates(process: GaussianProcess, t: Float[ArrayLike, "..."]) -> tuple[Marginal, Array, Array]:
    """The marginal at t with the time derivatives ``(alpha', sigma')``, by forward differentiation."""
    t = jnp.asarray(t, jnp.result_type(float, t))
    one = jnp.ones_like(t)
    alpha, d_alpha = jax.jvp(process.alpha, (t,), (one,))
    sigma, d_sigma = jax.jvp(process.sigma, (t,), (one,))
    return Marginal(alpha, sigma, 2.0 * (jnp.log(alpha) - jnp.log(sigma))), d_alpha, d_sigma


def drift_diffusion(process: GaussianProcess, t: Float[ArrayLike, "..."]) -> tuple[Array, Array]:
    """``(f, g^2)`` of the forward SDE ``dx = f(t) x dt + g(t) dw`` (see the module's text)."""
    (alpha, sigma, _), d_alpha, d_sigma = rates(process, t)
    f = d_alpha / alpha
    return f, 2.0 * sigma * d_sigma - 2.0 * f * sigma**2


def bridge(process: GaussianProcess, s: Float[ArrayLike, "..."], t: Float[ArrayLike, "..."]) -> Bridge:
    r"""The posterior of an earlier time ``s < t`` given ``x_t`` and ``x_0``.

    With ``a = alpha_t / alpha_s`` and ``v = sigma_t^2 - a^2 sigma_s^2`` (the variance of ``x_t | x_s``):
    ``c_xt = a sigma_s^2 / sigma_t^2``, ``c_x0 = alpha_s v / sigma_t^2``, ``var = v sigma_s^2 / sigma_t^2``.
    Ho et al. 2020 (arXiv:2006.11239), eq. 6-7, for any process.
    """
    scale, variance = transition(process, s, t)
    sigma_s, sigma_t2 = process.sigma(s), process.sigma(t) ** 2
    share = sigma_s**2 / sigma_t2
    return Bridge(scale * share, process.alpha(s) * variance / sigma_t2, variance * share)


def transition(
    process: GaussianProcess, s: Float[ArrayLike, "..."], t: Float[ArrayLike, "..."]
) -> tuple[Array, Array]:
    """``(a, v)`` of the forward step ``q(x_t | x_s) = N(a x_s, v I)``, ``s < t``."""
    scale = process.alpha(t) / process.alpha(s)
    ratio = scale * process.sigma(s) / process.sigma(t)
    return scale, process.sigma(t) ** 2 * (1.0 - ratio) * (1.0 + ratio)


def bridge_sample(
    process: GaussianProcess,
    x0: Float[Array, "b ..."],
    x_t: Float[Array, "b ..."],
    noise: Float[Array, "b ..."],
    s: Float[ArrayLike, "*b"],
    t: Float[ArrayLike, "*b"],
) -> Float[Array, "b ..."]:
    """``c_xt x_t + c_x0 x0 + sqrt(var) noise``: a draw from :func:`bridge`, one pair of times per sample."""
    c_xt, c_x0, var = (per_sample(jnp.asarray(value), x_t) for value in bridge(process, s, t))
    return c_xt * x_t + c_x0 * x0 + jnp.sqrt(var) * noise


def ancestral_pair(
    process: GaussianProcess,
    x0: Float[Array, "b ..."],
    noise: tuple[Float[Array, "b ..."], Float[Array, "b ..."]],
    s: Float[Array, "b"],
    t: Float[Array, "b"],
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """``(x_s, x_t)`` from their joint law given x0: x_s from the marginal, then x_t from x_s, ``s < t``.

    Two independent draws of the marginals would have the wrong covariance.
    """
    x_s = perturb(process, x0, noise[0], s)
    scale, variance = (per_sample(value, x0) for value in transition(process, s, t))
    return x_s, scale * x_s + jnp.sqrt(variance) * noise[1]


def prior_sample(
    process: GaussianProcess,
    keys: Keys,
    shape: tuple[int, ...],
    mean: Float[ArrayLike, "..."] = 0.0,
    var: Float[ArrayLike, "..."] = 0.0,
) -> Float[Array, "b ..."]:
    """Draw ``x_{t_max} ~ N(alpha mean, alpha^2 var + sigma^2)``, one key per sample.

    ``shape`` is of one sample; ``mean`` and ``var`` are the data's, and broadcast against it. The default
    is the usual ``N(0, sigma(t_max)^2 I)``: sigma_max for VE, not 1.
    """
    center, scale = _prior(process, mean, var)
    noise = normal(keys, shape)
    return (center + scale * noise).astype(noise.dtype)


def prior_log_prob(
    process: GaussianProcess,
    x: Float[Array, "b ..."],
    mean: Float[ArrayLike, "..."] = 0.0,
    var: Float[ArrayLike, "..."] = 0.0,
) -> Float[Array, "b"]:
    """Log density in nats of each sample under the distribution that :func:`prior_sample` draws from."""
    center, scale = _prior(process, mean, var)
    logp = jax.scipy.stats.norm.logpdf(x, center, scale)
    return jnp.sum(logp.reshape(x.shape[0], -1), axis=1)


def normal(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Standard normal noise of the given sample shape, each sample from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _prior(process: GaussianProcess, mean: ArrayLike, var: ArrayLike) -> tuple[Array, Array]:
    alpha, sigma, _ = marginal(process, process.t_max)
    return alpha * jnp.asarray(mean), jnp.sqrt(alpha**2 * jnp.asarray(var) + sigma**2)
