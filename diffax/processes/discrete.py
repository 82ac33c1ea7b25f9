"""Discrete noise tables as continuous processes."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from diffax import checks
from diffax.processes.gaussian import safe_sqrt


@jax.tree_util.register_pytree_node_class
class FromTable:
    r"""Any discrete DDPM table as a continuous process.

    ``alpha_bar[i]`` (decreasing, in (0, 1)) is ``alpha^2`` after step i + 1 of N, and stands at
    ``t = (i + 1) / N``; between the points ``log alpha_bar`` is linear, so that beta is piecewise constant:
    the process is the VP SDE whose discretisation the table is. ``t = 0`` is clean data.
    Ho et al. 2020 (arXiv:2006.11239), eq. 4. Tables: :mod:`diffax.processes.tables`.

    The one leaf is ``integrated_beta = -log alpha_bar`` with a zero in front, taken in float64 on the host
    where the table is concrete: ``1 - alpha_bar`` would lose half the digits of sigma in float32.
    """

    t_zero: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0
    integrated_beta: Array | np.ndarray

    def __init__(self, alpha_bar: Float[ArrayLike, "n"]) -> None:
        if not checks.is_concrete(alpha_bar):
            self.integrated_beta = jnp.concatenate([jnp.zeros(1), -jnp.log(jnp.asarray(alpha_bar))])
            return
        table = np.asarray(alpha_bar, np.float64)
        _check_table(table)
        self.integrated_beta = np.concatenate([np.zeros(1), -np.log(table)])

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """One leaf."""
        return (self.integrated_beta,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any]) -> "FromTable":
        """Without a second check."""
        process = object.__new__(cls)
        (process.integrated_beta,) = leaves
        return process

    @property
    def table_size(self) -> int:
        """The number of entries N."""
        return int(self.integrated_beta.shape[0]) - 1

    @property
    def t_min(self) -> float:
        """The time of the table's first entry."""
        return 1.0 / self.table_size

    def _integrated(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        return _interpolate_uniform(jnp.asarray(t) * self.table_size, jnp.asarray(self.integrated_beta))

    def alpha(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Square root of the interpolated table."""
        return jnp.exp(-0.5 * self._integrated(t))

    def sigma(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """``sqrt(1 - alpha^2)``."""
        return safe_sqrt(-jnp.expm1(-self._integrated(t)))

    def time(self, log_snr: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Invert the table by linear interpolation of ``log alpha_bar``."""
        table = jnp.asarray(self.integrated_beta)
        points = jnp.linspace(0.0, 1.0, self.table_size + 1, dtype=table.dtype)
        return jnp.interp(jax.nn.softplus(-jnp.asarray(log_snr)), table, points)


def _interpolate_uniform(position: Float[Array, "..."], table: Float[Array, "n"]) -> Float[Array, "..."]:
    """Linear interpolation at a fractional index; the slope is the right-hand cell's.

    Computed from the left neighbour's value, so that the table's own points come back exactly.
    """
    left = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, table.shape[0] - 2)
    return table[left] + (position - left) * (table[left + 1] - table[left])


def _check_table(alpha_bar: np.ndarray) -> None:
    checks.require(
        alpha_bar.ndim == 1 and alpha_bar.size >= 1, "alpha_bar", alpha_bar.shape, "shape (n,), n >= 1"
    )
    inside = bool(np.all(np.isfinite(alpha_bar)) and np.all(alpha_bar > 0) and np.all(alpha_bar < 1))
    checks.require(inside, "alpha_bar", f"[{alpha_bar.min():g}, {alpha_bar.max():g}]", "values in (0, 1)")
    falling = bool(np.all(np.diff(alpha_bar) < 0))
    checks.require(falling, "alpha_bar", "a table that is not decreasing", "strictly decreasing values")
