r"""Training-time samplers: how noise levels are drawn for the loss.

Each constructor returns ``draw(key, process, n) -> Float["n"]``, a batch of times in
``[t_min, t_max]``. One key serves the whole (global) batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffax import checks
from diffax.processes.coefficients import marginal
from diffax.processes.gaussian import GaussianProcess
from diffax.types import Values

TimeSampler = Callable[[Key[Array, ""], GaussianProcess, int], Array]


def uniform() -> TimeSampler:
    """Independent uniform times."""
    return lambda key, process, n: _stretch(process, jax.random.uniform(key, (n,)))


def stratified() -> TimeSampler:
    """One uniform offset, then equal spacing: ``u_i = (u + i / n) mod 1``.

    Each time is uniform, and a batch covers the interval evenly, which lowers the loss's variance.
    Kingma et al. 2021 (arXiv:2107.00630), appendix I.1.
    """

    def draw(key: Key[Array, ""], process: GaussianProcess, n: int) -> Float[Array, "n"]:
        points = jnp.mod(jax.random.uniform(key) + jnp.arange(n) / n, 1.0)
        return _stretch(process, points)

    return draw


def antithetic() -> TimeSampler:
    """Pairs ``(u, 1 - u)``, the first half drawn independently; an odd batch keeps one unpaired."""

    def draw(key: Key[Array, ""], process: GaussianProcess, n: int) -> Float[Array, "n"]:
        half = jax.random.uniform(key, ((n + 1) // 2,))
        return _stretch(process, jnp.concatenate([half, 1.0 - half])[:n])

    return draw


def log_normal(mean: float = -1.2, std: float = 1.2) -> TimeSampler:
    """``log(sigma / alpha) ~ N(mean, std^2)``, clipped to the process. Karras et al. 2022, table 1."""
    checks.require_number("std", std, 0.0, np.inf, "a positive number")

    def draw(key: Key[Array, ""], process: GaussianProcess, n: int) -> Float[Array, "n"]:
        level = mean + std * jax.random.normal(key, (n,))
        return jnp.clip(process.time(-2.0 * level), min=process.t_min, max=process.t_max)

    return draw


def log_logistic(mean: float = -0.693147, scale: float = 0.5) -> TimeSampler:
    """``log(sigma / alpha)`` logistic, cut off at the process's ends: ``mean + scale * logit(u)``.

    The defaults, log(1/2) and 1/2, are those of policies over actions of deviation 1/2. Reuss et al. 2023
    (arXiv:2304.02532), appendix.
    """
    checks.require_number("scale", scale, 0.0, np.inf, "a positive number")

    def draw(key: Key[Array, ""], process: GaussianProcess, n: int) -> Float[Array, "n"]:
        ends = jnp.asarray([process.t_min, process.t_max])
        low, high = jax.nn.sigmoid((-0.5 * marginal(process, ends).log_snr - mean) / scale)
        inside = low + jax.random.uniform(key, (n,)) * (high - low)
        times = process.time(-2.0 * (mean + scale * jax.scipy.special.logit(inside)))
        return jnp.clip(times, min=process.t_min, max=process.t_max)

    return draw


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeSampler:
    """``sigmoid(N(mean, std^2))`` stretched to the interval. Esser et al. 2024 (arXiv:2403.03206), eq. 19."""
    checks.require_number("std", std, 0.0, np.inf, "a positive number")
    return lambda key, process, n: _stretch(
        process, jax.nn.sigmoid(mean + std * jax.random.normal(key, (n,)))
    )


def log_snr_uniform() -> TimeSampler:
    """``log_snr`` uniform over the process, stratified: geometric noise levels where alpha = 1."""

    def draw(key: Key[Array, ""], process: GaussianProcess, n: int) -> Float[Array, "n"]:
        high, low = marginal(process, process.t_min).log_snr, marginal(process, process.t_max).log_snr
        points = jnp.mod(jax.random.uniform(key) + jnp.arange(n) / n, 1.0)
        return jnp.clip(process.time(low + points * (high - low)), min=process.t_min, max=process.t_max)

    return draw


def of_level(process: GaussianProcess, level: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The times at which ``sigma / alpha`` has these values: the inverse of ``noise_to_signal``."""
    return process.time(-2.0 * jnp.log(level))


def discrete(levels: Values) -> TimeSampler:
    """One of the given times, each equally likely: NCSN's fixed noise levels, DDPM's table entries."""
    table = np.asarray(levels, np.float32)
    checks.require(table.ndim == 1 and table.size > 0, "levels", table.shape, "a vector of one or more times")
    return lambda key, process, n: jax.random.choice(key, jnp.asarray(table), (n,))


def _stretch(process: GaussianProcess, unit: Float[Array, "n"]) -> Float[Array, "n"]:
    return process.t_min + unit * (process.t_max - process.t_min)
