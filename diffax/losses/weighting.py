r"""Weightings of the denoising loss, each as the factor of ``|x0_hat - x0|^2``.

Errors of the other targets are multiples of that one: ``|eps_hat - eps|^2 = SNR |x0_hat - x0|^2`` with
``SNR = alpha^2 / sigma^2``. A weighting is a function of (process, t), and may be traced.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffax import checks
from diffax.processes import GaussianProcess, drift_diffusion, marginal, rates

Weighting = Callable[[GaussianProcess, Array], Array]


def simple(target: str = "eps") -> Weighting:
    """Unit weight on the squared error of a target: "x0", "eps", "score", "v" or "velocity".

    "eps" is DDPM's L_simple, Ho et al. 2020 (arXiv:2006.11239), eq. 14.
    """
    factors: dict[str, Weighting] = {
        "x0": lambda process, t: jnp.ones_like(t),
        "eps": lambda process, t: _snr(process, t),
        "score": lambda process, t: _snr(process, t) / process.sigma(t) ** 2,
        "v": _v_factor,
        "velocity": _velocity_factor,
    }
    checks.require_one_of("target", target, factors)
    return factors[target]


def likelihood() -> Weighting:
    """``g^2 / 2`` on the score's error, which bounds the likelihood. Song et al. 2021 (arXiv:2101.09258)."""
    score = simple("score")
    return lambda process, t: 0.5 * drift_diffusion(process, t)[1] * score(process, t)


def edm(sigma_data: float = 0.5) -> Weighting:
    """Unit weight on the preconditioned network's error: ``1 / c_out^2``. Karras et al. 2022, table 1."""
    checks.require_number("sigma_data", sigma_data, 0.0, np.inf, "a positive number")

    def weight(process: GaussianProcess, t: Array) -> Array:
        snr = _snr(process, t)
        return snr + 1.0 / sigma_data**2

    return weight


def min_snr(gamma: float = 5.0) -> Weighting:
    """``min(SNR, gamma)``. Hang et al. 2023 (arXiv:2303.09556), eq. 8."""
    checks.require_number("gamma", gamma, 0.0, np.inf, "a positive number")
    return lambda process, t: jnp.minimum(_snr(process, t), gamma)


def sigmoid(bias: float = 0.0) -> Weighting:
    """``sigmoid(bias - log_snr)`` on the error of eps. Kingma & Gao 2023 (arXiv:2303.00848), section 5."""

    def weight(process: GaussianProcess, t: Array) -> Array:
        log_snr = marginal(process, t).log_snr
        return jnp.exp(log_snr + jax.nn.log_sigmoid(bias - log_snr))

    return weight


def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """``1 / (k + SNR)^gamma`` on the error of eps. Choi et al. 2022 (arXiv:2204.00227), eq. 8."""
    return lambda process, t: _snr(process, t) / (k + _snr(process, t)) ** gamma


def _snr(process: GaussianProcess, t: Array) -> Array:
    return jnp.exp(marginal(process, t).log_snr)


def _v_factor(process: GaussianProcess, t: Array) -> Array:
    """At fixed x an error e of x0 is ``-alpha e / sigma`` in eps, ``-(alpha^2 + sigma^2) e / sigma`` in v."""
    alpha, sigma, _ = marginal(process, t)
    return ((alpha**2 + sigma**2) / sigma) ** 2


def _velocity_factor(process: GaussianProcess, t: Array) -> Array:
    """Likewise ``alpha' - sigma' alpha / sigma``."""
    (alpha, sigma, _), d_alpha, d_sigma = rates(process, t)
    return (d_alpha - d_sigma * alpha / sigma) ** 2
