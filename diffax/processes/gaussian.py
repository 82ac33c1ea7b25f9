r"""Gaussian processes ``x_t = alpha(t) x_0 + sigma(t) eps`` as values.

A process is a frozen dataclass of numbers, registered as a pytree: its parameters may be traced,
learned or mapped over without a new compilation. It answers four questions, all element-wise in t:

* ``alpha(t)``, ``sigma(t)``: scale of the data and standard deviation of the noise;
* ``time(log_snr)``: the inverse of ``log_snr(t) = 2 log(alpha / sigma)``, which decreases in t;
* ``t_min``, ``t_max``: the interval on which it is used, and ``t_zero``, where sigma vanishes.

Anything with these members is a process. Everything else (drift, bridges, grids, parametrizations)
is derived from alpha and sigma in :mod:`diffax.processes.coefficients`, with no case distinctions.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from diffax import checks
from diffax.types import Scalar

_T = TypeVar("_T")


@runtime_checkable
class GaussianProcess(Protocol):
    """What samplers, losses and grids ask of a process (see the module's text)."""

    @property
    def t_min(self) -> Scalar: ...
    @property
    def t_max(self) -> Scalar: ...
    @property
    def t_zero(self) -> float: ...
    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]: ...
    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]: ...
    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]: ...


def _process(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass and a pytree whose leaves are all the fields."""
    cls = dataclass(frozen=True)(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


def _require_interval(low: Any, high: Any, bound: float, name: str = "t") -> None:
    """Check ``0 < low < high <= bound`` where the ends are plain numbers."""
    checks.require_number(f"{name}_min", low, 0.0, bound, f"a number in (0, {bound:g})")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        checks.require(bool(low < high <= bound), f"{name}_max", high, f"a number in ({name}_min, {bound:g}]")


@_process
class VP:
    r"""Variance preserving: ``alpha^2 + sigma^2 = 1``, ``beta(t) = beta_min + t (beta_max - beta_min)``.

    ``alpha(t) = exp(-B(t)/2)`` with ``B(t) = int_0^t beta``. Song et al. 2021 (arXiv:2011.13456), eq. 11,
    which DDPM's linear table discretises.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0
    t_min: Scalar = 1e-3
    t_max: Scalar = 1.0
    t_zero: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checks.require_number("beta_min", self.beta_min, 0.0, np.inf, "a positive number")
        checks.require_number("beta_max", self.beta_max, 0.0, np.inf, "a positive number")
        _require_interval(self.t_min, self.t_max, 1.0)

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``exp(-B(t)/2)``."""
        return jnp.exp(-0.5 * _integrated_beta(self, t))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``sqrt(1 - exp(-B(t)))``."""
        return safe_sqrt(-jnp.expm1(-_integrated_beta(self, t)))

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Solve ``exp(-B) = sigmoid(log_snr)``."""
        return _time_of_integrated_beta(self, jax.nn.softplus(-jnp.asarray(log_snr)))


@_process
class SubVP:
    r"""Sub-VP: VP's alpha with ``sigma = 1 - alpha^2``, a smaller variance at every t.

    Song et al. 2021 (arXiv:2011.13456), eq. 12 and 29.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0
    t_min: Scalar = 1e-3
    t_max: Scalar = 1.0
    t_zero: ClassVar[float] = 0.0

    __post_init__ = VP.__post_init__

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``exp(-B(t)/2)``."""
        return jnp.exp(-0.5 * _integrated_beta(self, t))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``1 - exp(-B(t))``."""
        return -jnp.expm1(-_integrated_beta(self, t))

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The positive root of ``1 - a^2 = r a`` with ``r = sigma / alpha = exp(-log_snr / 2)``.

        ``B = -2 log a = 2 asinh(r / 2)``, which keeps its digits where r is small.
        """
        ratio = jnp.exp(-0.5 * jnp.asarray(log_snr))
        return _time_of_integrated_beta(self, 2.0 * jnp.arcsinh(0.5 * ratio))


@_process
class VE:
    r"""Variance exploding: ``alpha = 1``, ``sigma(t) = sigma_min (sigma_max / sigma_min)^t``.

    Song et al. 2021 (arXiv:2011.13456), eq. 9; NCSN's geometric noise levels are its points.
    ``sigma`` vanishes at ``t = -inf`` only, which the samplers accept as the last point of a grid.
    """

    sigma_min: Scalar = 0.01
    sigma_max: Scalar = 50.0
    t_min: Scalar = 0.0
    t_max: Scalar = 1.0
    t_zero: ClassVar[float] = -np.inf

    def __post_init__(self) -> None:
        _require_interval(self.sigma_min, self.sigma_max, np.inf, "sigma")

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """1."""
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float, t)))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``sigma_min exp(t log(sigma_max / sigma_min))``."""
        return self.sigma_min * jnp.exp(jnp.asarray(t) * jnp.log(self.sigma_max / self.sigma_min))

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``(-log_snr / 2 - log sigma_min) / log(sigma_max / sigma_min)``."""
        log_sigma = -0.5 * jnp.asarray(log_snr)
        return (log_sigma - jnp.log(self.sigma_min)) / jnp.log(self.sigma_max / self.sigma_min)


@_process
class EDM:
    r"""``alpha = 1``, ``sigma(t) = t``: time is the noise level. Karras et al. 2022 (arXiv:2206.00364)."""

    t_min: Scalar = 0.002
    t_max: Scalar = 80.0
    t_zero: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _require_interval(self.t_min, self.t_max, np.inf)

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """1."""
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float, t)))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """t."""
        return jnp.asarray(t, jnp.result_type(float, t))

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``exp(-log_snr / 2)``."""
        return jnp.exp(-0.5 * jnp.asarray(log_snr))


@_process
class RectifiedFlow:
    r"""Straight paths ``x_t = (1 - t) x_0 + t eps``. Liu et al. 2022 (arXiv:2209.03003).

    The drift ``f = -1 / (1 - t)`` diverges at t = 1, so the default interval ends just before;
    deterministic samplers accept ``t_max=1.0``.
    """

    t_min: Scalar = 1e-3
    t_max: Scalar = 0.999
    t_zero: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _require_interval(self.t_min, self.t_max, 1.0)

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``1 - t``."""
        return 1.0 - jnp.asarray(t, jnp.result_type(float, t))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """t."""
        return jnp.asarray(t, jnp.result_type(float, t))

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``sigmoid(-log_snr / 2)``."""
        return jax.nn.sigmoid(-0.5 * jnp.asarray(log_snr))


@_process
class Cosine:
    r"""Cosine schedule ``alpha(t) = cos(phi(t)) / cos(phi(0))``, ``phi(t) = (t + s) / (1 + s) * pi/2``.

    Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17, in continuous time. alpha vanishes at t = 1, so
    the default interval ends at 0.9946 (Lu et al. 2022, arXiv:2206.00927, appendix D.3).
    """

    offset: Scalar = 0.008
    t_min: Scalar = 1e-3
    t_max: Scalar = 0.9946
    t_zero: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checks.require_number("offset", self.offset, 0.0, 1.0, "a number in (0, 1)")
        _require_interval(self.t_min, self.t_max, 1.0)

    def _phase(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        return (jnp.asarray(t) + self.offset) / (1.0 + self.offset) * (0.5 * jnp.pi)

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``cos(phi(t)) / cos(phi(0))``, by the sine of what is left to pi / 2: exactly 0 at t = 1."""
        left = (1.0 - jnp.asarray(t)) / (1.0 + self.offset) * (0.5 * jnp.pi)
        return jnp.sin(left) / jnp.cos(self._phase(0.0))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``sqrt(1 - alpha^2)``, as ``sqrt(sin(phi_t - phi_0) sin(phi_t + phi_0)) / cos(phi_0)``.

        The product keeps its digits near t = 0, where 1 - alpha^2 loses them.
        """
        now, start = self._phase(t), self._phase(0.0)
        return safe_sqrt(jnp.sin(now - start) * jnp.sin(now + start)) / jnp.cos(start)

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Solve ``sin^2(phi) = 1 - sigmoid(log_snr) cos^2(phi_0)``."""
        start, snr = self._phase(0.0), jnp.asarray(log_snr)
        cosine = jnp.cos(start) * jnp.sqrt(jax.nn.sigmoid(snr))
        sine = jnp.sqrt(jax.nn.sigmoid(-snr) + jax.nn.sigmoid(snr) * jnp.sin(start) ** 2)
        return jnp.arctan2(sine, cosine) / (0.5 * jnp.pi) * (1.0 + self.offset) - self.offset


def bisect_time(
    log_snr_of: Callable[[Array], Array], log_snr: Float[Array, "..."], t_min: Scalar, t_max: Scalar
) -> Float[Array, "..."]:
    """Invert a decreasing ``log_snr_of(t)`` on ``[t_min, t_max]`` by bisection to the last bit.

    For processes of one's own without a closed form for ``time``. Values outside are clamped to the ends.
    """
    low, high = jnp.full_like(log_snr, t_min), jnp.full_like(log_snr, t_max)

    def halve(_: Int[Array, ""], bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        too_clean = log_snr_of(middle) > log_snr
        return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

    low, high = jax.lax.fori_loop(0, 80, halve, (low, high))
    return 0.5 * (low + high)


def _integrated_beta(process: Any, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """``int_0^t beta`` of a linear beta."""
    t = jnp.asarray(t)
    return t * (process.beta_min + 0.5 * t * (process.beta_max - process.beta_min))


def _time_of_integrated_beta(process: Any, integral: Float[Array, "..."]) -> Float[Array, "..."]:
    """Positive root of the quadratic, in the form that also holds for a constant beta."""
    slope = process.beta_max - process.beta_min
    return 2.0 * integral / (process.beta_min + jnp.sqrt(process.beta_min**2 + 2.0 * slope * integral))


def safe_sqrt(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root with a zero derivative at zero, so that a grid may end where sigma vanishes."""
    positive = value > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1.0)), 0.0)
