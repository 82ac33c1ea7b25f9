r"""From networks to denoisers, and the denoisers that are known exactly.

A denoiser is ``denoise(x, t, cond) -> E[x0 | x_t = x]``. :func:`bind` makes one from a network and its
parameters; :func:`gaussian_denoiser` and :func:`mixture_denoiser` are closed forms, the oracles against
which samplers and likelihoods are tested.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffax import checks
from diffax.processes import TARGETS, GaussianProcess, marginal, per_sample, to_x0_eps
from diffax.types import ApplyFn, Cond, DenoiseFn, Params, Values

LogProbFn = Callable[[Array, Array], Array]
TimeInput = str | Callable[[GaussianProcess, Array], Array]


class Preconditioner(NamedTuple):
    """``x0_hat = c_skip x + c_out F(c_in x, c_noise)``, each shaped as t."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def precondition(
    process: GaussianProcess, t: Float[ArrayLike, "..."], sigma_data: float | Float[Array, ""]
) -> Preconditioner:
    r"""EDM's preconditioning for any (alpha, sigma).

    With ``s2 = sigma^2 + alpha^2 sigma_data^2``: ``c_in = 1/sqrt(s2)``, ``c_skip = alpha sigma_data^2 / s2``,
    ``c_out = sigma sigma_data / sqrt(s2)``, ``c_noise = log(sigma/alpha) / 4``: unit variance of the
    network's input and target at every t. It depends on x/alpha and sigma/alpha alone, so a network
    trained under one schedule may be sampled under another. Karras et al. 2022 (arXiv:2206.00364), table 1.
    """
    alpha, sigma, log_snr = marginal(process, t)
    power = sigma**2 + (alpha * sigma_data) ** 2
    root = jnp.sqrt(power)
    c_noise = -0.125 * _clip_log_snr(log_snr)
    return Preconditioner(alpha * sigma_data**2 / power, sigma * sigma_data / root, 1.0 / root, c_noise)


def bind(
    apply_fn: ApplyFn,
    params: Params,
    *,
    process: GaussianProcess,
    output: str,
    sigma_data: float | None = None,
    time_input: TimeInput = "t",
) -> DenoiseFn:
    """Make a denoiser of a network ``apply_fn(params, x, time, cond)``.

    Args:
      output: what the network predicts: "x0", "eps", "score", "v", "velocity", or "F", the raw output of
        :func:`precondition` (needs ``sigma_data``).
      sigma_data: standard deviation of the data; where given, the network's input is scaled to unit
        variance by ``c_in``.
      time_input: the network's second argument: "t", "log_snr", "c_noise" (``log(sigma/alpha)/4``), "step"
        (the index ``t N - 1`` in the table of a ``FromTable``, as networks of discrete steps take it), or a
        function of (process, t). Use "log_snr", "c_noise" or a function to sample under another schedule.

    Raises:
      ValueError: for an unknown output or time input, or "F" without sigma_data.
    """
    checks.require_one_of("output", output, (*TARGETS, "F"))
    checks.require(output != "F" or sigma_data is not None, "sigma_data", None, "a number, for output 'F'")
    time_of = _time_function(time_input)

    def denoise(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
        scaled = x
        if sigma_data is not None:
            c_skip, c_out, c_in, _ = (per_sample(c, x) for c in precondition(process, t, sigma_data))
            scaled = c_in * x
        raw = apply_fn(params, scaled, time_of(process, t), cond)
        if output == "F":
            return c_skip * x + c_out * raw
        return to_x0_eps(process, raw, x, t, source=output)[0]

    return denoise


def gaussian_denoiser(process: GaussianProcess, mean: Values, cov: Values) -> DenoiseFn:
    r"""The exact denoiser of ``x0 ~ N(mean, cov)``.

    ``E[x0 | x] = mean + alpha cov (alpha^2 cov + sigma^2 I)^{-1} (x - alpha mean)``.
    ``cov`` is a (d, d) matrix where ``mean`` is a vector (d,), else variances that broadcast over samples.
    """
    component = _Gaussian.of(mean, cov)

    def denoise(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
        return component.posterior_mean(process, x, t)

    return denoise


def mixture_denoiser(
    process: GaussianProcess,
    weights: Values,
    means: Values,
    covs: Values,
) -> DenoiseFn:
    r"""The exact denoiser of a Gaussian mixture: the components' denoisers weighted by responsibilities.

    ``weights`` (k,) need not be normalised; ``covs`` holds one variance (k,), variances (k, d) or matrices
    (k, d, d) for means (k, d).
    """
    components = _components(means, covs)
    responsibilities = mixture_responsibilities(process, weights, means, covs)

    def denoise(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
        estimates = jnp.stack([c.posterior_mean(process, x, t) for c in components])
        return jnp.einsum("bk,kb...->b...", responsibilities(x, t), estimates)

    return denoise


def mixture_responsibilities(
    process: GaussianProcess,
    weights: Values,
    means: Values,
    covs: Values,
) -> Callable[[Array, Array], Array]:
    """``p(component k | x_t = x)`` of a noised mixture, Float["b k"], as a function of (x, t)."""
    components = _components(means, covs)
    log_weights = jnp.log(_floats(weights) / jnp.sum(_floats(weights)))

    def responsibilities(x: Float[Array, "b ..."], t: Float[Array, "b"]) -> Float[Array, "b k"]:
        log_joint = jnp.stack([c.log_prob(process, x, t) for c in components]) + log_weights[:, None]
        return jax.nn.softmax(log_joint, axis=0).T

    return responsibilities


def mixture_log_prob(
    process: GaussianProcess,
    weights: Values,
    means: Values,
    covs: Values,
) -> LogProbFn:
    """``log p_t(x)`` in nats of a noised mixture, as a function of (x, t): the oracle of likelihoods."""
    components = _components(means, covs)
    log_weights = jnp.log(_floats(weights) / jnp.sum(_floats(weights)))

    def log_prob(x: Float[Array, "b ..."], t: Float[Array, "b"]) -> Float[Array, "b"]:
        log_joint = jnp.stack([c.log_prob(process, x, t) for c in components]) + log_weights[:, None]
        return jax.nn.logsumexp(log_joint, axis=0)

    return log_prob


class _Gaussian(NamedTuple):
    """A Gaussian in the basis where its covariance is diagonal (``basis=None``: the given one)."""

    mean: Array
    variances: Array
    basis: Array | None

    @classmethod
    def of(cls, mean: Values, cov: Values) -> "_Gaussian":
        mean, cov = _floats(mean), _floats(cov)
        if cov.ndim != 2 or mean.ndim != 1:
            return cls(mean, cov, None)
        checks.require(cov.shape == 2 * mean.shape, "cov", cov.shape, f"shape {2 * mean.shape}")
        variances, basis = jnp.linalg.eigh(cov)
        return cls(mean, variances, basis)

    def _moments(self, process: GaussianProcess, x: Array, t: Array) -> tuple[Array, Array, Array]:
        """alpha, the centred x in the diagonal basis, and its variances at t."""
        alpha, sigma = per_sample(process.alpha(t), x), per_sample(process.sigma(t), x)
        centred = x - alpha * self.mean
        rotated = centred if self.basis is None else centred @ self.basis
        return alpha, rotated, alpha**2 * self.variances + sigma**2

    def posterior_mean(self, process: GaussianProcess, x: Array, t: Array) -> Array:
        alpha, rotated, total = self._moments(process, x, t)
        gain = alpha * self.variances / total * rotated
        return self.mean + (gain if self.basis is None else gain @ self.basis.T)

    def log_prob(self, process: GaussianProcess, x: Array, t: Array) -> Array:
        _, rotated, total = self._moments(process, x, t)
        logp = jax.scipy.stats.norm.logpdf(rotated, 0.0, jnp.sqrt(total))
        return jnp.sum(logp.reshape(x.shape[0], -1), axis=1)


def empirical_denoiser(process: GaussianProcess, points: Float[Array, "n d"]) -> DenoiseFn:
    """``E[x0 | x_t]`` for data that is n equally likely points: their average, weighted by nearness.

    ``softmax_i(-|x - alpha p_i|^2 / (2 sigma^2)) . p``: what a network that memorised its data would say.
    """

    def denoise(x: Float[Array, "b d"], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
        return jax.nn.softmax(_nearness(process, points, x, t), axis=1) @ points

    return denoise


def empirical_log_prob(process: GaussianProcess, points: Float[Array, "n d"]) -> LogProbFn:
    """``log p_t(x)`` in nats of the same data: a kernel density estimate with Gaussians of width sigma(t)."""

    def log_prob(x: Float[Array, "b d"], t: Float[Array, "b"]) -> Float[Array, "b"]:
        logits = _nearness(process, points, x, t)
        constant = jnp.log(len(points)) + points.shape[1] * jnp.log(process.sigma(t) * jnp.sqrt(2 * jnp.pi))
        return jax.nn.logsumexp(logits, axis=1) - constant

    return log_prob


def _nearness(
    process: GaussianProcess, points: Float[Array, "n d"], x: Float[Array, "b d"], t: Float[Array, "b"]
) -> Float[Array, "b n"]:
    offset = x[:, None] - process.alpha(t)[:, None, None] * points
    return -0.5 * jnp.sum(offset**2, axis=-1) / process.sigma(t)[:, None] ** 2


def _components(means: Values, covs: Values) -> list[_Gaussian]:
    means, covs = _floats(means), _floats(covs)
    same = covs.ndim >= 1 and covs.shape[0] == means.shape[0]
    checks.require(same, "covs", covs.shape, f"a leading axis of {means.shape[0]}, one per mean")
    return [_Gaussian.of(mean, cov) for mean, cov in zip(means, covs, strict=True)]


def _floats(values: Values) -> Array:
    array = jnp.asarray(values)
    return array.astype(jnp.result_type(float, array.dtype))


def _time_function(time_input: TimeInput) -> Callable[[GaussianProcess, Array], Array]:
    if callable(time_input):
        return time_input
    known: dict[str, Callable[[GaussianProcess, Array], Array]] = {
        "t": lambda process, t: t,
        "log_snr": lambda process, t: _clip_log_snr(marginal(process, t).log_snr),
        "c_noise": lambda process, t: -0.125 * _clip_log_snr(marginal(process, t).log_snr),
        "step": _table_step,
    }
    checks.require_one_of("time_input", time_input, known)
    return known[time_input]


def _table_step(process: GaussianProcess, t: Array) -> Array:
    """The entry of a table that stands at t, fractional between two."""
    allowed = "a process with a table, such as FromTable, for time_input 'step'"
    checks.require(hasattr(process, "table_size"), "process", type(process).__name__, allowed)
    return t * getattr(process, "table_size") - 1.0  # noqa: B009


def _clip_log_snr(log_snr: Array) -> Array:
    """Keep a network's input finite where alpha or sigma vanishes."""
    return jnp.clip(log_snr, min=-30.0, max=30.0)
