r"""The five ways of saying the same prediction, and the one formula that converts between them.

Each target is a linear combination ``c0 x0 + c1 eps``:

=========  ============================  ==========================================
name       (c0, c1)                      source
=========  ============================  ==========================================
x0         (1, 0)
eps        (0, 1)                        Ho et al. 2020 (arXiv:2006.11239)
score      (0, -1/sigma)                 Song et al. 2021 (arXiv:2011.13456)
v          (-sigma, alpha)               Salimans & Ho 2022 (arXiv:2202.00512)
velocity   (alpha', sigma') = dx_t/dt    Lipman et al. 2022 (arXiv:2210.02747)
=========  ============================  ==========================================

Together with ``x = alpha x0 + sigma eps`` a prediction is two linear equations for (x0, eps).
"""

from typing import Literal, get_args

from jaxtyping import Array, Float

from diffax import checks
from diffax.processes.coefficients import per_sample, rates
from diffax.processes.gaussian import GaussianProcess

Target = Literal["x0", "eps", "score", "v", "velocity"]
TARGETS: tuple[str, ...] = get_args(Target)


def convert(
    process: GaussianProcess,
    value: Float[Array, "b ..."],
    x: Float[Array, "b ..."],
    t: Float[Array, "*b"],
    *,
    source: str,
    target: str,
) -> Float[Array, "b ..."]:
    """Turn a prediction of kind ``source`` at ``(x, t)`` into one of kind ``target``.

    ``t`` is one time per sample or a scalar. By Cramer's rule, with
    ``det = alpha c1 - sigma c0``: ``x0 = (c1 x - sigma value) / det``, ``eps = (alpha value - c0 x) / det``.
    Raises ``ValueError`` for an unknown kind.
    """
    x0, eps = to_x0_eps(process, value, x, t, source=source)
    return from_x0_eps(process, x0, eps, t, target=target)


def to_x0_eps(
    process: GaussianProcess,
    value: Float[Array, "b ..."],
    x: Float[Array, "b ..."],
    t: Float[Array, "*b"],
    *,
    source: str,
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """The pair ``(x0, eps)`` that a prediction of kind ``source`` implies."""
    alpha, sigma, c0, c1 = _rows(process, t, source, x)
    det = alpha * c1 - sigma * c0
    return (c1 * x - sigma * value) / det, (alpha * value - c0 * x) / det


def from_x0_eps(
    process: GaussianProcess,
    x0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    t: Float[Array, "*b"],
    *,
    target: str,
) -> Float[Array, "b ..."]:
    """The prediction ``c0 x0 + c1 eps`` of kind ``target``."""
    _, _, c0, c1 = _rows(process, t, target, x0)
    return c0 * x0 + c1 * eps


def _rows(process: GaussianProcess, t: Array, kind: str, like: Array) -> tuple[Array, Array, Array, Array]:
    """``(alpha, sigma, c0, c1)`` shaped to broadcast against samples."""
    checks.require_one_of("parametrization", kind, TARGETS)
    (alpha, sigma, _), d_alpha, d_sigma = rates(process, t)
    zero, one = 0.0 * sigma, 0.0 * sigma + 1.0
    c0, c1 = {
        "x0": (one, zero),
        "eps": (zero, one),
        "score": (zero, -1.0 / sigma),
        "v": (-sigma, alpha),
        "velocity": (d_alpha, d_sigma),
    }[kind]
    return (per_sample(alpha, like), per_sample(sigma, like), per_sample(c0, like), per_sample(c1, like))
