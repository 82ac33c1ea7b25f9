"""DiT: a transformer over patches of an image, conditioned through adaptive layer norms.

    tokens = patches(image) W + positions
    tokens = tokens + gate * f(modulate(norm(tokens), scale, shift))     # f: attention, then perceptron
    image  = unpatch(linear(modulate(norm(tokens), scale, shift)))

where (scale, shift, gate) are linear in ``silu(mlp(time) + table[label])`` and start at zero, so that
every block starts as the identity (adaLN-Zero). Source: Peebles & Xie 2023.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.models.features import keep
from diffax.models.layers.attention import SelfAttention
from diffax.models.layers.conv import dense
from diffax.models.layers.embedding import ConditionEmbedding, check_time, concat_condition
from diffax.models.layers.norm import layer_norm, modulate
from diffax.models.layers.resample import depth_to_space, space_to_depth
from diffax.types import Cond


def sincos_positions(height: int, width: int, features: int) -> Float[np.ndarray, "n c"]:
    """Fixed position embedding of a grid, row by row: sines and cosines of the column, then of the row.

    A quarter of the features each for sin(column w), cos(column w), sin(row w), cos(row w), with ``w`` from
    1 down to 1/10000 in log steps; ``features`` must be a multiple of 4. Source: Peebles & Xie 2023.
    """
    require(features % 4 == 0, "width", features, "a multiple of 4")
    frequencies = 10_000.0 ** (-np.arange(features // 4) / (features // 4))
    rows, columns = np.indices((height, width)).reshape(2, -1, 1) * frequencies
    parts = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


class DiTBlock(nn.Module):
    """Attention and a perceptron over tokens, each modulated, gated and added; the identity at first."""

    heads: int
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    train: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n c"], embedding: Float[Array, "b c"]
    ) -> Float[Array, "b n c"]:
        """Transform the tokens of each sample, under its embedding."""
        width = tokens.shape[-1]
        modulation = dense(6 * width, zero_init=True, dtype=self.dtype, name="modulation")(embedding)
        scale1, shift1, gate1, scale2, shift2, gate2 = jnp.split(modulation[:, None], 6, axis=-1)
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        h = modulate(layer_norm(tokens), scale1, shift1)
        tokens += gate1 * drop(SelfAttention(self.heads, dtype=self.dtype, name="attention")(h))
        h = modulate(layer_norm(tokens), scale2, shift2)
        h = nn.gelu(dense(int(self.mlp_ratio * width), dtype=self.dtype, name="mlp_in")(h))
        return tokens + gate2 * drop(dense(width, dtype=self.dtype, name="mlp_out")(h))


class DiT(nn.Module):
    """Diffusion transformer over images, ``model.apply({"params": p}, x, time, cond, train=False)``.

    ``x`` is Float["b h w c"], ``time`` Float["b"] (such as t in [0, 1] or log(sigma) / 4), ``cond`` None
    or a mapping with "label" Int["b"], "unconditional" Bool["b"] and "concat" Float["b h w c2"].
    The output has the size and dtype of ``x`` and is zero at initialisation. The defaults are DiT-S/2;
    DiT-B has width 768, depth 12, 12 heads; L 1024, 24, 16; XL 1152, 28, 16.

    * ``patch_size``: pixels a side of a token. ``width``: channels of a token, a multiple of 4 and of
      ``heads``. ``depth``: blocks. ``mlp_ratio``: hidden width of the perceptron, in widths.
    * ``num_classes``: size of the label table, 0 to ignore labels. ``out_channels``: None for those of x.
    * ``time_embedding``: "sinusoidal" or "fourier"; ``time_scale``: None for its default (1000 or 16), made
      for times in [0, 1]; for ``log(sigma) / 4`` take "fourier" with a scale of 1.
    * ``dtype``: of the computation, such as ``jnp.bfloat16``; parameters and statistics stay float32.
    * ``remat``: recompute each block in the backward pass, for memory.

    Raises ValueError for a height or width that ``patch_size`` does not divide, and for such options.
    """

    patch_size: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    num_classes: int = 0
    out_channels: int | None = None
    time_embedding: str = "sinusoidal"
    time_scale: float | None = None
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c2"]:
        """Run the network; ``train=True`` needs a "dropout" key where ``dropout > 0``."""
        require(x.ndim == 4, "x.shape", x.shape, "(batch, height, width, channels)")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number in [0, 1)")
        require(self.patch_size > 0, "patch_size", self.patch_size, "1 or more")
        check_time(time, x.shape[0])
        embedding = ConditionEmbedding(
            self.width, 256, self.num_classes, self.time_embedding, self.time_scale, name="condition"
        )(time, cond)
        patches = space_to_depth(concat_condition(x, cond), self.patch_size)
        grid = patches.shape[1:3]
        tokens = dense(self.width, dtype=self.dtype, name="stem")(
            patches.reshape(x.shape[0], -1, patches.shape[-1])
        )
        tokens += jnp.asarray(sincos_positions(grid[0], grid[1], self.width), tokens.dtype)
        module = nn.remat(DiTBlock) if self.remat else DiTBlock
        for index in range(self.depth):
            block = module(self.heads, self.mlp_ratio, self.dropout, train, self.dtype, name=f"block{index}")
            tokens = block(tokens, embedding)
            keep(self, f"hidden{index}", tokens.reshape(x.shape[0], *grid, self.width))
        channels = (self.out_channels or x.shape[-1]) * self.patch_size**2
        output = self.head(tokens, embedding, channels).reshape(x.shape[0], *grid, channels)
        return depth_to_space(output, self.patch_size).astype(x.dtype)

    @nn.nowrap
    def head(self, tokens: Array, embedding: Array, channels: int) -> Float[Array, "b n c"]:
        """Normalise, modulate and map each token to its pixels, from zero."""
        modulation = dense(2 * self.width, zero_init=True, dtype=self.dtype, name="out_modulation")(embedding)
        tokens = modulate(layer_norm(tokens), *jnp.split(modulation[:, None], 2, axis=-1))
        return dense(channels, zero_init=True, dtype=self.dtype, name="out")(tokens)
