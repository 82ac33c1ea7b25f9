"""A classifier of noisy images: what guides a sampler by its gradient."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.models.discriminators import DownBlock
from diffax.models.layers.conv import conv, dense
from diffax.models.layers.embedding import check_time, sinusoidal_features
from diffax.models.layers.norm import GroupNorm
from diffax.models.layers.resample import space_to_depth


class NoisyClassifier(nn.Module):
    """``model.apply({"params": p}, x, time)``: logits Float["b classes"] of images at any noise, 0 at first.

    ``time`` is Float["b"] in [0, 1]. Blocks of :class:`DownBlock`, a norm after each, then the mean over
    pixels.

    * ``block_channels``: one block each, at half the resolution of the one before.
    * ``patch_size``: squares of pixels stacked on the channels first; ``dtype``: of the computation.

    After Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4. Raises ValueError for fewer than two classes.
    """

    classes: int
    channels: int = 32
    block_channels: tuple[int, ...] = (32, 64, 64)
    patch_size: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], time: Float[Array, "b"]) -> Float[Array, "b k"]:
        """Score every class."""
        require(self.classes >= 2, "classes", self.classes, "at least 2")
        check_time(time, x.shape[0])
        embedding = nn.silu(dense(self.channels, name="time_in")(sinusoidal_features(time, self.channels)))
        h = space_to_depth(x, self.patch_size).astype(self.dtype or x.dtype)
        h = conv(self.channels, dtype=self.dtype, name="stem")(h)
        for index, features in enumerate(self.block_channels):
            h = DownBlock(features, True, "pool", self.dtype, name=f"block{index}")(h, embedding)
            h = GroupNorm(False, self.dtype, name=f"norm{index}")(h)
        pooled = jnp.mean(nn.silu(h).astype(jnp.float32), axis=(1, 2))
        return dense(self.classes, zero_init=True, name="out")(pooled)
