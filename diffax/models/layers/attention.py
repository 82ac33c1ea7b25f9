"""Self-attention over tokens and over the pixels of an image or volume."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.models.layers.conv import dense
from diffax.models.layers.norm import GroupNorm


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens, ``out = softmax(q k^T / sqrt(d)) v W + b``.

    The softmax runs in float32. ``heads`` must divide the channels. Source: Vaswani et al. 2017, eq. 1.

    * ``causal``: a token reads itself and those before it alone.
    * ``norm_heads``: q and k of each head are scaled to a mean square of 1, then by a learned vector
      (Dehghani et al. 2023, section 2). ``out_bias``: whether b is there.
    * ``dropout``: of the softmax's entries, where ``train``; needs a "dropout" key.
    """

    heads: int = 1
    zero_init: bool = False
    dtype: Any = None
    causal: bool = False
    norm_heads: bool = False
    out_bias: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool = False) -> Float[Array, "b n c"]:
        """Mix the tokens of each sample."""
        batch, tokens, channels = x.shape
        allowed = f"a divisor of the {channels} channels"
        require(self.heads > 0 and channels % self.heads == 0, "heads", self.heads, allowed)
        qkv = dense(3 * channels, dtype=self.dtype, name="qkv")(x)
        # heads outermost, so that a split of the columns over devices keeps each head's q, k and v together
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, self.heads, 3, -1), 3, 0)
        if self.norm_heads:
            q, k = (nn.RMSNorm(dtype=self.dtype, name=f"norm_{n}")(y) for n, y in (("q", q), ("k", k)))
        mixed = self._mix(q, k, v, train).reshape(batch, tokens, channels)
        return dense(channels, zero_init=self.zero_init, bias=self.out_bias, dtype=self.dtype, name="out")(
            mixed
        )

    @nn.nowrap
    def _mix(self, q: Array, k: Array, v: Array, train: bool) -> Float[Array, "b n h d"]:
        if not (train and self.dropout):
            return jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        mask = jnp.tril(jnp.ones((q.shape[1],) * 2, bool)) if self.causal else None
        return nn.dot_product_attention(  # jax.nn's has no dropout
            q,
            k,
            v,
            mask=mask,
            dropout_rate=self.dropout,
            dropout_rng=self.make_rng("dropout"),
            deterministic=False,
        )


class PixelAttention(nn.Module):
    """Residual self-attention among all pixels, ``x + attention(norm(x))``, silent at initialisation.

    ``rescale_skip`` divides the sum by sqrt(2); the norm's groups and epsilon are :class:`GroupNorm`'s.
    Source: Ho et al. 2020, appendix B.
    """

    heads: int = 1
    rescale_skip: bool = False
    dtype: Any = None
    norm_groups: int | None = None
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
        """Let every pixel of an image, or voxel of a volume, read every other."""
        norm = GroupNorm(False, self.dtype, self.norm_groups, self.norm_epsilon, name="norm")
        tokens = norm(x).reshape(x.shape[0], -1, x.shape[-1])
        mixed = SelfAttention(self.heads, zero_init=True, dtype=self.dtype, name="attention")(tokens)
        return (x + mixed.reshape(x.shape)) * (0.5**0.5 if self.rescale_skip else 1.0)
