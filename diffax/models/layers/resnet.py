"""The residual block of the convolutional networks."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from diffax.models.layers.conv import conv, dense
from diffax.models.layers.norm import GroupNorm, over_pixels


class ResNetBlock(nn.Module):
    """Two normalised convolutions around a skip connection, conditioned between them; images or volumes.

    ``h = conv(resample(silu(norm(x))))``, then the embedding is added, or scales and shifts the second
    norm (``scale_shift``), then ``skip(resample(x)) + conv0(dropout(silu(norm(h))))``, where ``conv0``
    starts at zero. The skip is a 1x1 convolution where the channels or the resolution change.

    * ``resample``: a change of resolution inside the block, on both branches (Brock et al. 2019, BigGAN;
      Dhariwal & Nichol 2021, ADM); ``None`` is the block of Ho et al. 2020.
    * ``rescale_skip``: divide the sum by sqrt(2), which keeps the variance (Song et al. 2021).
    * ``norm_groups``, ``norm_epsilon``: of both norms, see :class:`GroupNorm`.
    """

    features: int
    dropout: float = 0.0
    scale_shift: bool = False
    rescale_skip: bool = False
    resample: Callable[[Array], Array] | None = None
    train: bool = False
    dtype: Any = None
    norm_groups: int | None = None
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ... c"],
        embedding: Float[Array, "b e"],
        style: Float[Array, "b s"] | None = None,
    ) -> Float[Array, "b ... c2"]:
        """Transform ``x``; a ``style``, if given, modulates the norms that the embedding does not."""
        norm = partial(GroupNorm, False, self.dtype, self.norm_groups, self.norm_epsilon)
        convolve = partial(conv, dims=x.ndim - 2, dtype=self.dtype)
        h = nn.silu(norm(name="norm_in")(x, style))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = convolve(self.features, name="conv_in")(h)
        if not self.scale_shift:
            shift = dense(self.features, dtype=self.dtype, name="embedding")(embedding)
            h += over_pixels(shift, h)
        h = norm(name="norm_out")(h, embedding if self.scale_shift else style)
        h = nn.Dropout(self.dropout, deterministic=not self.train)(nn.silu(h))
        h = convolve(self.features, zero_init=True, name="conv_out")(h)
        if x.shape[-1] != self.features or self.resample is not None:
            x = convolve(self.features, kernel=1, name="skip")(x)
        return (x + h) * (0.5**0.5 if self.rescale_skip else 1.0)
