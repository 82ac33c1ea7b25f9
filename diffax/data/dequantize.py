"""Between grey levels and the continuum: likelihoods of 8-bit images need a density to be scored by."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffax.checks import require


def levels_of(x: Float[Array, "..."], levels: int = 256) -> Int[Array, "..."]:
    """The level 0 .. levels-1 of pixels that lie on the grid ``2 k / (levels - 1) - 1`` of [-1, 1]."""
    require(levels >= 2, "levels", levels, "at least 2")
    return jnp.clip(jnp.round((x + 1) / 2 * (levels - 1)), min=0, max=levels - 1).astype(jnp.int32)


def dequantize(key: Key[Array, ""], x: Float[Array, "..."], levels: int = 256) -> Float[Array, "..."]:
    """Uniform dequantisation: ``y = 2 (k + u) / levels - 1``, ``u ~ U[0, 1)``, for the level k of each pixel.

    Each level owns a cell of width 2 / levels of [-1, 1), so that a density p(y) in nats bounds the
    probability of the levels: ``-log2 P(k) <= -E_u[log2 p(y)] + D log2(levels / 2)`` over D pixels.
    Theis et al. 2016 (arXiv:1511.01844), section 3.1.
    """
    require(levels <= 2**16, "levels", levels, "at most 65536")
    # u on a grid, off its ends, so that float32 cannot round k + u into the cell of k + 1
    steps = 2 ** (20 - math.ceil(math.log2(levels)))
    u = (jax.random.randint(key, x.shape, 0, steps) + 0.5) / steps
    return 2 * (levels_of(x, levels) + u) / levels - 1


def requantize(y: Float[Array, "..."], levels: int = 256) -> Float[Array, "..."]:
    """The pixel of [-1, 1] whose cell holds y: the inverse of ``dequantize`` for any noise."""
    require(levels >= 2, "levels", levels, "at least 2")
    k = jnp.clip(jnp.floor((y + 1) / 2 * levels), min=0, max=levels - 1)
    return 2 * k / (levels - 1) - 1
