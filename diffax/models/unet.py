"""The U-Net of denoising diffusion: residual blocks at falling, then rising resolutions; images or volumes.

    embedding = silu(mlp(time) + table[label])
    skips     = encode(image)                      # every level: blocks, attention, then half the size
    h         = middle(skips[-1])
    output    = decode(h, skips)                   # every block reads the encoder's opposite number

Sources: Ho et al. 2020, appendix B (``resample="conv"``); Dhariwal & Nichol 2021, ADM
(``resample="pool"``, ``scale_shift=True``). Subclasses change the architecture through the small methods
``style``, ``merge_input``, ``add_output`` and ``decoder_attends``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require, require_one_of
from diffax.models.features import keep
from diffax.models.layers.attention import PixelAttention
from diffax.models.layers.conv import conv
from diffax.models.layers.embedding import ConditionEmbedding, check_time, concat_condition
from diffax.models.layers.norm import GroupNorm
from diffax.models.layers.resample import RESAMPLE_KINDS, depth_to_space, downsample, space_to_depth, upsample
from diffax.models.layers.resnet import ResNetBlock
from diffax.types import Cond


class Context(NamedTuple):
    """What every block of one forward pass shares."""

    embedding: Array  # Float["b e"], time and label
    style: Array | None  # Float["b s"], modulates the norms
    train: bool


class UNet(nn.Module):
    """U-Net over images, ``model.apply({"params": p}, x, time, cond, train=False)``.

    ``x`` is Float["b h w c"], ``time`` Float["b"] (such as t in [0, 1] or log(sigma) / 4), ``cond`` None
    or a mapping with "label" Int["b"], "vector" Float["b vector_size"], "concat" Float["b h w c2"] and
    "unconditional" Bool["b"]; "given" Bool["b"] hides the vector alone.
    The output has the size and dtype of ``x`` and is zero at initialisation.

    * ``channels``, ``channel_multipliers``: level i has ``channels * channel_multipliers[i]`` channels.
    * ``blocks_per_level``: residual blocks a level of the encoder; the decoder has one more.
    * ``attention_levels``: which levels have self-attention after each block; () for none.
    * ``middle_attention``: self-attention at the lowest resolution, between the two middle blocks.
    * ``heads``: attention heads; must divide the channels of each level that has attention.
      ``head_size``: channels of a head, where their number is to follow from it instead.
    * ``resample``: "conv" (strided convolution; repeat and convolve), or a residual block that averages
      and repeats pixels ("pool") or filters them ("fir").
    * ``scale_shift``: the embedding scales and shifts the second norm of a block, instead of an addition.
    * ``rescale_skip``: divide each residual sum by sqrt(2).
    * ``num_classes``: size of the label table, 0 to ignore labels. ``vector_size``: of a condition of
      numbers, 0 for none. ``out_channels``: None for those of x.
    * ``patch_size``: squares of pixels stacked on the channels before, and spread after: 2 is about
      four times faster on a CPU.
    * ``time_embedding``: "sinusoidal" or "fourier"; ``time_scale``: None for its default (1000 or 16), made
      for times in [0, 1]; for ``log(sigma) / 4`` take "fourier" with a scale of 1. ``time_shift``: of
      the sinusoidal frequencies (:func:`sinusoidal_features`).
    * ``norm_groups``: of every group norm, None for a number that follows the channels
      (:func:`group_count`); ``norm_epsilon``: added to the variances.
    * ``symmetric_downsample``: the strided convolution pads one pixel on every side, not one at the end.
    * ``dtype``: of the computation, such as ``jnp.bfloat16``; parameters and statistics stay float32.
    * ``remat``: recompute each block in the backward pass, for memory.

    Raises ValueError for a height or width that ``patch_size * 2^(levels - 1)`` does not divide, and for
    options outside of the above.
    """

    dims: ClassVar[int] = 2  # axes of pixels

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks_per_level: int = 2
    attention_levels: tuple[bool, ...] = ()
    middle_attention: bool = True
    heads: int = 1
    dropout: float = 0.0
    num_classes: int = 0
    vector_size: int = 0
    out_channels: int | None = None
    patch_size: int = 1
    resample: str = "conv"
    scale_shift: bool = False
    rescale_skip: bool = False
    time_embedding: str = "sinusoidal"
    time_scale: float | None = None
    dtype: Any = None
    remat: bool = False
    head_size: int | None = None
    time_shift: float = 0.0
    norm_groups: int | None = None
    norm_epsilon: float = 1e-6
    symmetric_downsample: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ... c"],
        time: Float[Array, "b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b ... c2"]:
        """Run the network; ``train=True`` needs a "dropout" key where ``dropout > 0``."""
        self.check_fields()
        self.check_inputs(x, time)
        # A frequency a channel (Song et al. 2021), where the sinusoidal bank shares one between two.
        features = self.channels if self.time_embedding == "sinusoidal" else 2 * self.channels
        embedding = ConditionEmbedding(
            4 * self.channels,
            features,
            self.num_classes,
            self.time_embedding,
            self.time_scale,
            self.time_shift,
            self.vector_size,
            name="condition",
        )(time, cond)
        context = Context(embedding, self.style(cond), train)
        image = space_to_depth(concat_condition(x, cond), self.patch_size).astype(self.dtype or x.dtype)
        skips = self.encode(image, context)
        h = self.middle(skips[-1], context)
        channels = (self.out_channels or x.shape[-1]) * self.patch_size**self.dims
        output = self.decode(h, skips, context, channels)
        return depth_to_space(output, self.patch_size).astype(x.dtype)

    # ---- what subclasses may change

    @nn.nowrap
    def style(self, cond: Cond | None) -> Float[Array, "b s"] | None:
        """Vector that modulates the norms of all blocks, such as a mapped latent; here there is none."""
        return None

    @nn.nowrap
    def merge_input(self, h: Array, image: Array, level: int) -> tuple[Array, Array]:
        """Feed the input image, at level ``level``'s resolution, to ``h``; return both. Here: do nothing."""
        return h, image

    @nn.nowrap
    def add_output(self, output: Array | None, h: Array, level: int, channels: int) -> Array | None:
        """Read the output off the decoder after level ``level``; here only at full resolution."""
        return self.head(h, channels, "out") if level == 0 else None

    @nn.nowrap
    def decoder_attends(self, index: int) -> bool:
        """Whether attention, at levels that have it, follows a decoder level's block of this index."""
        return True

    # ---- the trunk

    @nn.nowrap
    def encode(self, image: Float[Array, "b ... c"], context: Context) -> list[Array]:
        """Activations after the stem, after each block and after each change of resolution."""
        skips = [self.conv(self.channels, name="stem")(image)]
        for level, multiplier in enumerate(self.channel_multipliers):
            for index in range(self.blocks_per_level):
                name = f"down{level}_block{index}"
                h = self.block(skips[-1], context, self.channels * multiplier, name)
                skips.append(self.attend(h, level, name))
            keep(self, f"level{level}", skips[-1])
            if level + 1 < len(self.channel_multipliers):
                h = self.change_size(skips[-1], context, "down", level)
                h, image = self.merge_input(h, image, level + 1)
                skips.append(h)
        return skips

    @nn.nowrap
    def middle(self, h: Float[Array, "b ... c"], context: Context) -> Float[Array, "b ... c"]:
        """Two blocks, and attention between them, at the lowest resolution."""
        h = self.block(h, context, h.shape[-1], "middle_block0")
        if self.middle_attention:
            h = self.attention(h, "middle_attention")
        h = self.block(h, context, h.shape[-1], "middle_block1")
        keep(self, "middle", h)
        return h

    @nn.nowrap
    def decode(self, h: Array, skips: list[Array], context: Context, channels: int) -> Array:
        """Climb back to full resolution; every block reads the skip that the encoder left last."""
        skips = list(skips)
        output: Array | None = None
        for level in reversed(range(len(self.channel_multipliers))):
            for index in range(self.blocks_per_level + 1):
                name = f"up{level}_block{index}"
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.block(h, context, self.channels * self.channel_multipliers[level], name)
                if self.decoder_attends(index):
                    h = self.attend(h, level, name)
            output = self.add_output(output, h, level, channels)
            if level > 0:
                h = self.change_size(h, context, "up", level)
        assert output is not None
        return output

    # ---- the parts

    @nn.nowrap
    def conv(self, features: int, **options: Any) -> nn.Conv:
        """Make a convolution of this network's kind, see :func:`diffax.models.layers.conv`."""
        return conv(features, dims=self.dims, dtype=self.dtype, **options)

    @nn.nowrap
    def block(
        self,
        h: Array,
        context: Context,
        features: int,
        name: str,
        resample: Callable[[Array], Array] | None = None,
    ) -> Array:
        """Apply a residual block of the given name."""
        module = nn.remat(ResNetBlock) if self.remat else ResNetBlock
        return module(
            features,
            self.dropout,
            self.scale_shift,
            self.rescale_skip,
            resample,
            context.train,
            self.dtype,
            self.norm_groups,
            self.norm_epsilon,
            name=name,
        )(h, context.embedding, context.style)

    @nn.nowrap
    def attention(self, h: Array, name: str) -> Array:
        """Apply self-attention of the given name."""
        module = nn.remat(PixelAttention) if self.remat else PixelAttention
        heads, channels = self.heads, h.shape[-1]
        if self.head_size is not None:
            fits = self.head_size > 0 and channels % self.head_size == 0
            require(fits, "head_size", self.head_size, f"a divisor of the {channels} channels")
            heads = channels // self.head_size
        norm = (self.norm_groups, self.norm_epsilon)
        return module(heads, self.rescale_skip, self.dtype, *norm, name=name)(h)

    @nn.nowrap
    def attend(self, h: Array, level: int, name: str) -> Array:
        """Apply self-attention at the levels that have it."""
        has_attention = bool(self.attention_levels) and self.attention_levels[level]
        return self.attention(h, f"{name}_attention") if has_attention else h

    @nn.nowrap
    def change_size(self, h: Array, context: Context, direction: str, level: int) -> Array:
        """Halve ("down") or double ("up") the resolution after a level."""
        name, features = f"{direction}{level}_resample", h.shape[-1]
        if self.resample != "conv":
            function = downsample if direction == "down" else upsample
            return self.block(h, context, features, name, partial(function, kind=self.resample))
        if direction == "down":
            padding = 1 if self.symmetric_downsample else "SAME"
            return self.conv(features, stride=2, padding=padding, name=name)(h)
        return self.conv(features, name=name)(upsample(h, "pool"))

    @nn.nowrap
    def head(self, h: Array, channels: int, name: str) -> Array:
        """Normalise and convolve to ``channels``, from zero."""
        norm = GroupNorm(False, self.dtype, self.norm_groups, self.norm_epsilon, name=f"{name}_norm")
        h = nn.silu(norm(h))
        return self.conv(channels, zero_init=True, name=f"{name}_conv")(h)

    # ---- checks

    @nn.nowrap
    def check_fields(self) -> None:
        """Raise ValueError for an option that is not allowed."""
        levels = len(self.channel_multipliers)
        require(levels > 0, "channel_multipliers", self.channel_multipliers, "one number a level")
        marks = len(self.attention_levels)
        require(marks in (0, levels), "attention_levels", self.attention_levels, f"() or {levels} booleans")
        require(self.blocks_per_level > 0, "blocks_per_level", self.blocks_per_level, "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number in [0, 1)")
        require(self.patch_size > 0, "patch_size", self.patch_size, "1 or more")
        require(self.head_size is None or self.heads == 1, "heads", self.heads, "1 where head_size is given")
        require_one_of("resample", self.resample, RESAMPLE_KINDS)

    @nn.nowrap
    def check_inputs(self, x: Array, time: Array) -> None:
        """Raise ValueError for a size that cannot be halved at each level, or a wrong number of times."""
        axes = ("depth", "height", "width")[-self.dims :]
        require(x.ndim == self.dims + 2, "x.shape", x.shape, f"(batch, {', '.join(axes)}, channels)")
        factor = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        fits = all(size % factor == 0 for size in x.shape[1:-1])
        rule = f"multiples of {factor} = patch_size * 2^(levels - 1)"
        require(fits, f"{' and '.join(axes)} of x", x.shape[1:-1], rule)
        check_time(time, x.shape[0])


class UNet3D(UNet):
    """U-Net over volumes: ``x`` is Float["b d h w c"], "concat" Float["b d h w c2"]; else as ``UNet``.

    The fields are those of ``UNet`` and mean the same with cubes for squares: ``patch_size=2`` stacks eight
    voxels, every level halves the depth too, and attention is among all voxels of a level, in memory that
    grows with the square of their number.
    Voxels are taken to be cubes: bring thick slices to one spacing first, or give ``UNet`` the neighbours of
    a slice as channels. Source: Çiçek et al. 2016 (arXiv:1606.06650); Ho et al. 2022 (arXiv:2204.03458).

    Raises ValueError as ``UNet`` does.
    """

    dims: ClassVar[int] = 3
