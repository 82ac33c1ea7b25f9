"""Second moments of activations: products and sums on the device, in pairs of float32 that lose nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.checks import require

Pair = tuple[Array, Array]


class Moments:
    """``sum x^T x``, ``sum x`` and how many, over rows that come in batches.

    Products are of float32 with accelerators' highest precision; their default of fewer bits would make the
    smallest eigenvalues noise. Sums over batches keep what float32 rounds off in a second number (Knuth 1969,
    4.2.2, theorem B), so that nothing but the result leaves the device.

    ``groups``: that many blocks of ``size`` columns, each with a moment of its own, as heads have. Moments
    then have the groups as their first axis. ``full=False`` keeps diagonals alone.
    """

    def __init__(self, size: int, full: bool = True, groups: int = 0) -> None:
        self.full, self.count = full, 0
        self.shape = (groups, size) if groups else (size,)
        square = (*self.shape, size) if full else self.shape
        self._total, self._sums = _zeros(square), _zeros(self.shape)

    def add(self, x: Float[Array | np.ndarray, "*n d"]) -> None:
        """More rows, along all axes but the last; ValueError for another size."""
        size = int(np.prod(self.shape))
        require(x.shape[-1] == size, "x.shape", x.shape, f"(..., {size})")
        self._total, self._sums = _add(
            self._total, self._sums, jnp.asarray(x).reshape(-1, *self.shape), self.full
        )
        self.count += x.size // size

    @property
    def second(self) -> Float[np.ndarray, "*g d"]:
        """``E[x^T x]``, or its diagonal, float64; ValueError where x had NaN or infinity."""
        return self._read(self._total)

    @property
    def mean(self) -> Float[np.ndarray, "*g"]:
        """``E[x]``."""
        return self._read(self._sums)

    def _read(self, pair: Pair) -> np.ndarray:
        total = np.asarray(pair[0], np.float64) + np.asarray(pair[1], np.float64)
        require(bool(np.isfinite(total).all()), "x", "NaN or infinity", "finite numbers")
        return total / max(1, self.count)


def _zeros(shape: tuple[int, ...]) -> Pair:
    return jnp.zeros(shape), jnp.zeros(shape)


@jax.jit(static_argnames="full", donate_argnums=(0, 1))
def _add(total: Pair, sums: Pair, x: Array, full: bool) -> tuple[Pair, Pair]:
    x = x.astype(jnp.float32)
    pattern = "n...i,n...j->...ij" if full else "n...i,n...i->...i"
    products = jnp.einsum(pattern, x, x, precision=jax.lax.Precision.HIGHEST)
    return _plus(total, products), _plus(sums, jnp.sum(x, axis=0))


def _plus(pair: Pair, more: Array) -> Pair:
    """The sum as float32 rounds it, and what it rounded off."""
    high, low = pair
    total = high + more
    seen = total - high
    return total, low + ((high - (total - seen)) + (more - seen))
