"""NCSN++: the U-Net of score-based models, with filtered resampling and pyramids of input and output.

It is ``UNet`` with residual blocks that resample through a FIR filter, sums divided by sqrt(2), Fourier
features of the time, and one attention layer a level in the decoder. Source: Song et al. 2021, appendix H.
"""

from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require, require_one_of
from diffax.models.layers.conv import conv
from diffax.models.layers.mapping import MappingNetwork
from diffax.models.layers.resample import downsample, fir_filter, upsample
from diffax.models.unet import UNet
from diffax.types import Cond

PROGRESSIVE_INPUTS = ("input_skip", "none", "residual")
PROGRESSIVE_OUTPUTS = ("none", "output_skip")


class NCSNpp(UNet):
    """NCSN++ over images; called as ``UNet`` is, with its fields and these.

    * ``progressive_input``: what each lower level sees of the input image. "input_skip": the filtered
      image through a 1x1 convolution, added; "residual": a strided convolution of the level above's
      input, added and divided by sqrt(2) under ``rescale_skip``; "none".
    * ``progressive_output``: "output_skip" sums an output read off every level, each filtered up to the
      next; "none" reads the last level only.

    Song et al. give ``time = log(sigma)`` and divide the output by sigma; both belong to the
    parametrisation outside. Raises ValueError as ``UNet`` does.
    """

    blocks_per_level: int = 4
    attention_levels: tuple[bool, ...] = (False, True, False, False)
    dropout: float = 0.1
    resample: str = "fir"
    rescale_skip: bool = True
    time_embedding: str = "fourier"
    progressive_input: str = "residual"
    progressive_output: str = "none"

    @nn.nowrap
    def merge_input(
        self, h: Float[Array, "b h w c"], image: Float[Array, "b h2 w2 c2"], level: int
    ) -> tuple[Float[Array, "b h w c"], Array]:
        """Halve the image (or the pyramid that grew from it) and add it to ``h``."""
        name = f"down{level}_input"
        if self.progressive_input == "input_skip":
            image = downsample(image, "fir")
            return h + conv(h.shape[-1], 1, dtype=self.dtype, name=name)(image), image
        if self.progressive_input == "residual":
            # Two pixels of padding each side: what the filter and the strided convolution eat together.
            blurred = fir_filter(image, pad=(2, 2))
            image = conv(h.shape[-1], stride=2, padding="VALID", dtype=self.dtype, name=name)(blurred)
            h = (h + image) * (0.5**0.5 if self.rescale_skip else 1.0)
            return h, h
        return h, image

    @nn.nowrap
    def add_output(self, output: Array | None, h: Array, level: int, channels: int) -> Array | None:
        """Add what this level says to the output so far, filtered up to its resolution."""
        if self.progressive_output == "none":
            return super().add_output(output, h, level, channels)
        current = self.head(h, channels, f"up{level}_out")
        return current if output is None else upsample(output, "fir") + current

    @nn.nowrap
    def decoder_attends(self, index: int) -> bool:
        """After the last block of a level only."""
        return index == self.blocks_per_level

    @nn.nowrap
    def check_fields(self) -> None:
        """Raise ValueError for an option that is not allowed."""
        super().check_fields()
        require_one_of("progressive_input", self.progressive_input, PROGRESSIVE_INPUTS)
        require_one_of("progressive_output", self.progressive_output, PROGRESSIVE_OUTPUTS)


class StyledNCSNpp(NCSNpp):
    """NCSN++ that draws: a latent ``cond["z"]``, Float["b d"], modulates every norm of its blocks.

    The latent passes a mapping network to a style w, and each group norm becomes adaptive (AdaGN),
    ``norm(h) (1 + s(w)) + b(w)`` with s and b linear; the time enters as in ``NCSNpp``, by addition.

    * ``style_features``, ``style_layers``: of the mapping network, see :class:`MappingNetwork`.

    Raises ValueError where ``cond`` brings no "z". Source: Xiao et al. 2022 (arXiv:2112.07804), appendix C.
    """

    style_features: int = 256
    style_layers: int = 4
    dropout: float = 0.0
    time_embedding: str = "sinusoidal"
    blocks_per_level: int = 2

    @nn.nowrap
    def style(self, cond: Cond | None) -> Float[Array, "b s"]:
        """The mapped latent."""
        found = sorted(cond or {})
        require("z" in found, "cond", found, "a mapping with the latent 'z'")
        assert cond is not None
        return MappingNetwork(self.style_features, self.style_layers, name="mapping")(cond["z"])
