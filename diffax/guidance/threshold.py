"""Keep the estimate of x0 inside the data's range."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax import checks
from diffax.types import Cond, DenoiseFn, DenoiseTransform


def static_threshold(low: float = -1.0, high: float = 1.0) -> DenoiseTransform:
    """``clip(x0, low, high)``, as DDPM's samplers do."""
    checks.require(low < high, "low, high", (low, high), "low < high")

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def clipped(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            return jnp.clip(denoise(x, t, cond), min=low, max=high)

        return clipped

    return transform


def dynamic_threshold(quantile: float = 0.995, limit: float = np.inf) -> DenoiseTransform:
    """``clip(x0, -s, s) / s`` with s the sample's own quantile of ``|x0|``, at least 1 and at most ``limit``.

    Saharia et al. 2022 (arXiv:2205.11487), section 2.3, for data in [-1, 1].
    """
    checks.require_number("quantile", quantile, 0.0, 1.0, "a number in (0, 1)")
    checks.require_number("limit", limit, 1.0, np.inf, "a number > 1") if np.isfinite(limit) else None

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def scaled(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            x0 = denoise(x, t, cond)
            size = jnp.quantile(jnp.abs(x0), quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
            size = jnp.clip(size, min=1.0, max=limit)
            return jnp.clip(x0, min=-size, max=size) / size

        return scaled

    return transform
