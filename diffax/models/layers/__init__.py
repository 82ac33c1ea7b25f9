"""The parts that the networks are made of: conditioning, normalisation, attention, resampling, blocks."""

from diffax.models.layers.attention import PixelAttention, SelfAttention
from diffax.models.layers.conv import conv, dense
from diffax.models.layers.embedding import (
    ConditionEmbedding,
    check_time,
    concat_condition,
    fourier_features,
    label_rows,
    sinusoidal_features,
)
from diffax.models.layers.mapping import MappingNetwork, pixel_norm
from diffax.models.layers.norm import (
    GroupNorm,
    group_count,
    layer_norm,
    modulate,
    over_pixels,
    standardize_groups,
)
from diffax.models.layers.resample import (
    depth_to_space,
    downsample,
    filter_axis,
    fir_filter,
    space_to_depth,
    upsample,
)
from diffax.models.layers.resnet import ResNetBlock

__all__ = [
    "ConditionEmbedding",
    "GroupNorm",
    "MappingNetwork",
    "PixelAttention",
    "ResNetBlock",
    "SelfAttention",
    "check_time",
    "concat_condition",
    "conv",
    "dense",
    "depth_to_space",
    "downsample",
    "filter_axis",
    "fir_filter",
    "fourier_features",
    "group_count",
    "label_rows",
    "layer_norm",
    "modulate",
    "over_pixels",
    "pixel_norm",
    "sinusoidal_features",
    "space_to_depth",
    "standardize_groups",
    "upsample",
]
