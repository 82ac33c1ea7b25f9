"""Pixel values on their way in: what range they have, whether they keep to it, and to [-1, 1].

Every image that leaves a source is float32 in [-1, 1]. Only ``uint8`` states its range by its type;
everything else must either be in [-1, 1] already or come with ``value_range=(low, high)``: guessing
the range from the data would let two files of one data set be scaled differently.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from diffax.checks import require

ValueRange = Sequence[int | float]  # (low, high)
_SLACK = 1e-5  # of the range: what resizing in float32 may overshoot, and is then clipped
_BLOCK = 1024


def resolve_range(field: str, dtype: Any, value_range: ValueRange | None) -> ValueRange:
    """The (low, high) that maps to [-1, 1]: the one given, or the one that the dtype implies.

    Raises ``ValueError`` for an empty range and for types such as ``uint16`` that imply none.
    """
    if value_range is not None:
        ends = [float(v) for v in value_range]
        ordered = len(ends) == 2 and bool(np.isfinite(ends).all()) and ends[0] < ends[1]
        require(ordered, f"{field}: value_range", value_range, "(low, high), finite, low < high")
        return tuple(ends)
    dtype = np.dtype(dtype)
    allowed = "uint8, float in [-1, 1], or any real type with value_range=(low, high)"
    require(dtype == np.uint8 or np.issubdtype(dtype, np.floating), f"{field}: dtype", dtype.name, allowed)
    return (0.0, 255.0) if dtype == np.uint8 else (-1.0, 1.0)


def check_values(field: str, x: Shaped[np.ndarray, "..."], value_range: ValueRange) -> None:
    """Raise ``ValueError`` with a value that is not finite, or the extreme one that is out of range."""
    low, high = value_range
    slack = _SLACK * (high - low)
    least, most = x.min().item(), x.max().item()  # nan if there is one, and nan fails both
    allowed = f"finite values in [{low:g}, {high:g}] (or another value_range)"
    require(most <= high + slack, field, most, allowed)
    require(least >= low - slack, field, least, allowed)


def check_images(field: str, images: Shaped[np.ndarray, "n ..."], value_range: ValueRange) -> None:
    """``check_values`` for each image of an array, in blocks; the error names the image's index."""
    if images.dtype == np.uint8 and value_range[0] <= 0 and value_range[1] >= 255:
        return  # the type already keeps the range
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        try:
            check_values(field, block, value_range)
        except ValueError:
            for i, image in enumerate(block):
                check_values(f"{field}[{start + i}]", image, value_range)
            raise


def to_unit_range(x: Shaped[np.ndarray, "..."], value_range: ValueRange) -> Float[np.ndarray, "..."]:
    """Map [low, high] to float32 in [-1, 1]: ``2 (x - low) / (high - low) - 1``, exact at both ends."""
    low, high = value_range
    unit = (x.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(unit * 2 - 1, -1, 1)
