"""Second moments of activations: products in blocks on the device, sums in float64 on the host."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.checks import require


class Moments:
    """``sum x^T x``, ``sum x`` and how many, over rows that come in batches.

    Products are of float32 with accelerators' highest precision; their default of fewer bits would make the
    smallest eigenvalues noise. ``full=False`` keeps the diagonal alone.
    """

    def __init__(self, size: int, full: bool = True) -> None:
        self.full, self.count = full, 0
        self.total = np.zeros((size, size) if full else size)
        self.sums = np.zeros(size)

    def add(self, x: Float[Array | np.ndarray, "*n d"]) -> None:
        """More rows, along all axes but the last; ValueError for another size, or what is not finite."""
        size = self.sums.size
        require(x.shape[-1] == size, "x.shape", x.shape, f"(..., {size})")
        found = (_products if self.full else _squares)(jnp.asarray(x).reshape(-1, size))
        total, sums = (np.asarray(value, np.float64) for value in found)
        require(bool(np.isfinite(total).all()), "x", "NaN or infinity", "finite numbers")
        self.total, self.sums = self.total + total, self.sums + sums
        self.count += x.size // size

    @property
    def second(self) -> Float[np.ndarray, "d *d2"]:
        """``E[x^T x]``, or its diagonal."""
        return self.total / max(1, self.count)

    @property
    def mean(self) -> Float[np.ndarray, "d"]:
        """``E[x]``."""
        return self.sums / max(1, self.count)


@jax.jit
def _products(x: Array) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    return jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST), jnp.sum(x, axis=0)


@jax.jit
def _squares(x: Array) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    return jnp.sum(x**2, axis=0), jnp.sum(x, axis=0)
