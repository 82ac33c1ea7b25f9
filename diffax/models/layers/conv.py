"""The convolution and the linear map that every network of this library is made of.

Both keep float32 parameters, compute in ``dtype`` and start from the variance-preserving uniform
initialisation (Glorot & Bengio 2010) or, where a branch or a head must start silent, from zero.
"""

from typing import Any

from flax import linen as nn

_GLOROT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def conv(
    features: int,
    kernel: int = 3,
    *,
    dims: int = 2,
    stride: int = 1,
    padding: str | int = "SAME",
    zero_init: bool = False,
    bias: bool = True,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Conv:
    """Convolution of images (b, h, w, c) to ``features`` channels, with a square of side ``kernel``.

    ``dims=3``: of volumes (b, d, h, w, c), with a cube.

    ``padding="SAME"`` keeps the size (halves an even one where ``stride=2``); ``"VALID"`` is for inputs
    that a filter has padded already; a number is so many zeros on every side.
    """
    return nn.Conv(
        features,
        (kernel,) * dims,
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_init=nn.initializers.zeros if zero_init else _GLOROT,
        dtype=dtype,
        name=name,
    )


def dense(
    features: int,
    *,
    zero_init: bool = False,
    bias: bool = True,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Dense:
    """Linear map ``y = x W + b`` of the last axis to ``features`` entries."""
    kernel_init = nn.initializers.zeros if zero_init else _GLOROT
    return nn.Dense(features, use_bias=bias, kernel_init=kernel_init, dtype=dtype, name=name)
