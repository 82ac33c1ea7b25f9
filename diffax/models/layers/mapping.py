"""From a latent vector to the style that modulates a generator's norms."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.models.layers.conv import dense


def pixel_norm(z: Float[Array, "... d"], epsilon: float = 1e-8) -> Float[Array, "... d"]:
    """``z / sqrt(mean_i z_i^2 + epsilon)``: a mean square of 1. Karras et al. 2018 (arXiv:1710.10196)."""
    return z * lax.rsqrt(jnp.mean(jnp.square(z), axis=-1, keepdims=True) + epsilon)


class MappingNetwork(nn.Module):
    """``layers + 1`` linear maps, each through a SiLU, of the normalised latent: z -> style.

    ``features``: size of the style. Source: Karras et al. 2019 (StyleGAN, arXiv:1812.04948), section 2;
    Xiao et al. 2022 (arXiv:2112.07804), appendix C.
    """

    features: int = 256
    layers: int = 4

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b s"]:
        """Map each latent, in float32. Raises ValueError for a latent without dimensions."""
        require(z.ndim == 2 and z.shape[1] > 0, "cond['z'].shape", z.shape, "(batch, 1 or more dimensions)")
        h = pixel_norm(z)
        for index in range(self.layers + 1):
            h = nn.silu(dense(self.features, name=f"layer{index}")(h))
        return h
