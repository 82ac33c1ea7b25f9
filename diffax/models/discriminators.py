"""Discriminators along a diffusion: does x_s belong to x_t, or are these the features of real data?

    e      = leaky(mlp(sinusoids(time)))
    h      = stem(x_s, x_t), then blocks h <- (skip(h) + conv0(halve(leaky(conv(leaky(h)) + e)))) / sqrt(2)
    logit  = linear(sum over pixels of leaky(conv0(h, deviation over the batch)))

is :class:`PairDiscriminator`; :class:`FeatureHeads` are small networks on activations of another one.

Source: Xiao et al. 2022 (arXiv:2112.07804), appendix C; Karras et al. 2018 (arXiv:1710.10196), section 3.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require, require_one_of
from diffax.models.features import Features
from diffax.models.layers.conv import conv, dense
from diffax.models.layers.embedding import check_time, sinusoidal_features
from diffax.models.layers.norm import GroupNorm, layer_norm
from diffax.models.layers.resample import downsample, space_to_depth


def minibatch_deviation(x: Float[Array, "b h w c"], group: int = 4) -> Float[Array, "b h w 1"]:
    """How much the members of a group differ: one number a group, on every pixel of its members.

    Sample i is in group ``i mod (b / g)`` with g = min(group, b): the mean over pixels and channels of
    ``sqrt(var over the group + 1e-8)``, in float32. Under jit the batch is the global one, whatever devices
    it lies on. Raises ValueError for a batch that g does not divide. Karras et al. 2018, section 3.
    """
    batch, height, width, channels = x.shape
    size = min(group, batch)
    require(group >= 1 and batch % size == 0, "batch", batch, f"a multiple of the group of {size}")
    grouped = x.astype(jnp.float32).reshape(size, batch // size, height, width, channels)
    deviation = jnp.sqrt(jnp.var(grouped, axis=0) + 1e-8).mean(axis=(1, 2, 3))
    tiled = jnp.tile(deviation, size)[:, None, None, None]
    return jnp.broadcast_to(tiled, (batch, height, width, 1)).astype(x.dtype)


class DownBlock(nn.Module):
    """``(skip(h) + conv0(halve(leaky(conv(leaky(h)) + e)))) / sqrt(2)``; ``conv0`` starts at zero."""

    features: int
    halve: bool = True
    resample: str = "fir"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"]) -> Float[Array, "b ..."]:
        """Transform ``x``, to half its size under ``halve``."""
        h = conv(self.features, dtype=self.dtype, name="conv_in")(nn.leaky_relu(x, 0.2))
        h += dense(self.features, dtype=self.dtype, name="embedding")(embedding)[:, None, None]
        h = nn.leaky_relu(h, 0.2)
        if self.halve:
            h, x = downsample(h, self.resample), downsample(x, self.resample)
        h = conv(self.features, zero_init=True, dtype=self.dtype, name="conv_out")(h)
        x = conv(self.features, 1, bias=False, dtype=self.dtype, name="skip")(x)
        return (x + h) * 0.5**0.5


class PairDiscriminator(nn.Module):
    """``model.apply({"params": p}, x_s, time, x_t)``: logits Float["b"], 0 at initialisation.

    ``x_s`` and ``x_t`` are Float["b h w c"], ``time`` Float["b"] in [0, 1].

    * ``channels``: of the stem, and of the time's embedding.
    * ``block_channels``, ``halve``: a residual block each, and whether it halves the resolution. The default
      is the published network for 32 x 32; that for 256 x 256 halves in (256, 512, 512, 512, 512, 512).
    * ``group``: of the deviation over the batch (:func:`minibatch_deviation`), 0 for none.
    * ``resample``: "fir" or "pool"; ``patch_size``: squares of pixels stacked on the channels first.
    * ``dtype``: of the computation, such as ``jnp.bfloat16``; parameters and the last sum stay float32.

    Raises ValueError for inputs of different shapes, and options outside of these.
    """

    channels: int = 128
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    halve: tuple[bool, ...] = (False, True, True, True)
    group: int = 4
    resample: str = "fir"
    patch_size: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x_s: Float[Array, "b h w c"], time: Float[Array, "b"], x_t: Float[Array, "b h w c"]
    ) -> Float[Array, "b"]:
        """Score each pair."""
        self.check(x_s, time, x_t)
        embedding = self.embed(time)
        pair = space_to_depth(jnp.concatenate([x_s, x_t], axis=-1), self.patch_size)
        h = conv(self.channels, 1, dtype=self.dtype, name="stem")(pair.astype(self.dtype or x_s.dtype))
        for index, (features, halve) in enumerate(zip(self.block_channels, self.halve, strict=True)):
            h = DownBlock(features, halve, self.resample, self.dtype, name=f"block{index}")(h, embedding)
        last = h.shape[-1]
        if self.group:
            h = jnp.concatenate([h, minibatch_deviation(h, self.group)], axis=-1)
        h = nn.leaky_relu(conv(last, zero_init=True, dtype=self.dtype, name="last")(h), 0.2)
        return dense(1, name="out")(h.astype(jnp.float32).sum(axis=(1, 2)))[:, 0]

    @nn.nowrap
    def embed(self, time: Float[Array, "b"]) -> Float[Array, "b e"]:
        """Two layers over sinusoids of the time."""
        h = sinusoidal_features(time, self.channels)
        for name in ("time_in", "time_out"):
            h = nn.leaky_relu(dense(self.channels, name=name)(h), 0.2)
        return h

    @nn.nowrap
    def check(self, x_s: Array, time: Array, x_t: Array) -> None:
        """Raise ValueError for an option or an input that is not allowed."""
        require_one_of("resample", self.resample, ("fir", "pool"))
        require(self.group >= 0, "group", self.group, "0 (none) or more")
        blocks = len(self.block_channels)
        require(len(self.halve) == blocks, "halve", self.halve, f"{blocks} booleans, one a block")
        require(x_s.shape == x_t.shape, "x_t.shape", x_t.shape, f"{x_s.shape}, as x_s")
        factor = self.patch_size * 2 ** sum(self.halve)
        fits = x_s.ndim == 4 and x_s.shape[1] % factor == 0 and x_s.shape[2] % factor == 0
        require(fits, "x_s.shape", x_s.shape, f"(b, h, w, c), h and w multiples of {factor}")
        check_time(time, x_s.shape[0])


class FeatureHeads(nn.Module):
    """``model.apply({"params": p}, features)``: a logit for each of several activations, Float["b heads"].

    ``features`` maps names to Float["b h w c"] or Float["b c"]; heads are in the order of the names, and 0 at
    initialisation. Images are halved by strided convolutions of 4 x 4, each with a group norm, down to a side
    of 4 or less; vectors are standardised and pass one hidden layer. The network that the activations come
    from knows the noise level and the class, so heads need neither.

    * ``channels``: hidden width, 0 for the channels of each activation.
    * ``dtype``: of the computation, such as ``jnp.bfloat16``; logits are float32.

    Source: the discriminators of Yin et al. 2024 (arXiv:2405.14867), section 4.3.
    """

    channels: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features) -> Float[Array, "b heads"]:
        """Score each sample, once for each activation."""
        require(len(features) > 0, "features", sorted(features), "one activation or more")
        logits = [self.head(name, features[name]) for name in sorted(features)]
        return jnp.concatenate(logits, axis=-1)

    @nn.nowrap
    def head(self, name: str, h: Float[Array, "b ..."]) -> Float[Array, "b 1"]:
        """The logit of one activation."""
        width = self.channels or h.shape[-1]
        if h.ndim == 2:
            h = nn.silu(dense(width, dtype=self.dtype, name=f"{name}_in")(layer_norm(h)))
        else:
            require(h.ndim == 4, f"features[{name!r}].shape", h.shape, "(b, c) or (b, h, w, c)")
            for index in range(max(1, (min(h.shape[1:3]) - 1).bit_length() - 2)):
                h = conv(width, 4, stride=2, dtype=self.dtype, name=f"{name}_conv{index}")(h)
                h = nn.silu(GroupNorm(dtype=self.dtype, name=f"{name}_norm{index}")(h))
        return dense(1, zero_init=True, name=f"{name}_out")(h.astype(jnp.float32).reshape(h.shape[0], -1))
