r"""Discrete noise tables ``alpha_bar[i] = prod_{j <= i} (1 - beta[j])`` for :class:`FromTable`.

Computed in float64 on the host: the product over a thousand steps loses three digits in float32.
"""

import math

import numpy as np
from jaxtyping import Float

from diffax import checks


def linear(n: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2) -> Float[np.ndarray, "n"]:
    """Betas equally spaced. Ho et al. 2020 (arXiv:2006.11239), section 4."""
    _check(n, beta_start, beta_end)
    return from_betas(np.linspace(beta_start, beta_end, n))


def scaled_linear(
    n: int = 1000, beta_start: float = 8.5e-4, beta_end: float = 1.2e-2
) -> Float[np.ndarray, "n"]:
    """Square roots of the betas equally spaced. Rombach et al. 2022 (arXiv:2112.10752)."""
    _check(n, beta_start, beta_end)
    return from_betas(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), n) ** 2)


def sigmoid(
    n: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2, reach: float = 6.0
) -> Float[np.ndarray, "n"]:
    """``beta = beta_start + (beta_end - beta_start) sigmoid(u)``, u equally spaced in [-reach, reach].

    Xu et al. 2022 (GeoDiff, arXiv:2203.02923), section 5.1.
    """
    _check(n, beta_start, beta_end)
    checks.require_number("reach", reach, 0.0, np.inf, "a positive number")
    share = 1.0 / (1.0 + np.exp(-np.linspace(-reach, reach, n)))
    return from_betas(beta_start + (beta_end - beta_start) * share)


def cosine(n: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Float[np.ndarray, "n"]:
    """``alpha_bar(t) = cos^2``, betas clipped. Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17."""
    checks.require(n >= 2, "n", n, "an integer >= 2")
    checks.require_number("offset", offset, 0.0, 1.0, "a number in (0, 1)")
    level = np.cos((np.arange(n + 1) / n + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1.0 - level[1:] / level[:-1], max_beta))


def vp(n: int, beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-3) -> Float[np.ndarray, "n"]:
    r"""The VP SDE at n + 1 equally spaced times ``u_i`` from ``start`` to 1, as a chain of n large steps.

    ``alpha_bar_i = a(u_i) / a(u_0)`` with ``log a(u) = -u^2 (beta_max - beta_min) / 2 - u beta_min``.
    Xiao et al. 2022 (arXiv:2112.07804), appendix B.
    """
    checks.require(n >= 1, "n", n, "an integer >= 1")
    inside = 0 <= start < 1 and 0 < beta_min <= beta_max
    allowed = "0 < beta_min <= beta_max and start in [0, 1)"
    checks.require(inside, "beta_min, beta_max, start", (beta_min, beta_max, start), allowed)
    u = start + (1.0 - start) * np.arange(n + 1) / n
    log_level = -0.5 * u**2 * (beta_max - beta_min) - u * beta_min
    return np.exp(log_level[1:] - log_level[0])


def from_betas(betas: np.ndarray) -> Float[np.ndarray, "n"]:
    """Cumulative products ``prod (1 - beta)`` of one's own betas in (0, 1)."""
    betas = np.asarray(betas, np.float64)
    inside = betas.ndim == 1 and bool(np.all((betas > 0) & (betas < 1)))
    checks.require(inside, "betas", betas.shape, "a vector of values in (0, 1)")
    return np.cumprod(1.0 - betas)


def _check(n: int, beta_start: float, beta_end: float) -> None:
    checks.require(n >= 2, "n", n, "an integer >= 2")
    checks.require_number("beta_start", beta_start, 0.0, 1.0, "a number in (0, 1)")
    checks.require_number("beta_end", beta_end, 0.0, 1.0, "a number in (0, 1)")
