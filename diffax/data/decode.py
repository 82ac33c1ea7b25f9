"""From an image file to an array: grey or colour, 8 bit or deep, cropped to a square and resized."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from diffax.checks import require, require_one_of
from diffax.data.optional import optional_import
from diffax.data.ranges import ValueRange, check_values, resolve_range, to_unit_range

_FORMATS = ("PNG", "JPEG", "TIFF", "MPO")  # MPO: what many cameras write into .jpg files
_GREY = ("1", "L", "LA")


def decode_image(
    data: bytes | Path, name: str, *, size: int | None = None, channels: int | None = None
) -> Shaped[np.ndarray, "h w c"]:
    """Decode a PNG, JPEG or TIFF; ``uint8``, or float32 in the file's own units for 16- and 32-bit grey.

    With ``size`` the largest central square is cut out and resized to (size, size), bicubic with
    antialiasing. ``channels`` is 1 (grey) or 3 (RGB); None keeps what the file has. The orientation
    that a camera wrote into the file is applied. Raises ``ValueError`` that names the file for one that
    cannot be read, has several frames, or is partly transparent (what lies behind it is not known).
    """
    require_one_of("channels", str(channels), ("1", "3", "None"))
    require(size is None or size >= 1, "size", size, "at least 1, or None")
    image = _to_pixels(_open(data, name), name, channels)
    if size is not None:
        image = _square(image, size)
    array = np.asarray(image)
    array = array if array.ndim == 3 else array[..., None]
    if array.dtype == np.float32 and channels == 3:
        array = np.repeat(array, 3, axis=-1)
    return array


def read_image(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    value_range: ValueRange | None = None,
) -> Float[np.ndarray, "h w c"]:
    """One image file as float32 in [-1, 1]; deep ones need the ``value_range`` (low, high) that maps to it.

    Arguments and errors as :func:`decode_image`; ValueError for a missing file, or values outside the range.
    """
    require(Path(path).is_file(), "image", str(path), "an existing PNG, JPEG or TIFF")
    pixels = decode_image(Path(path), str(path), size=size, channels=channels)
    bounds = resolve_range(str(path), pixels.dtype, value_range)
    check_values(str(path), pixels, bounds)
    return to_unit_range(pixels, bounds)


def _open(data: bytes | Path, name: str) -> Any:
    pil, ops = optional_import("PIL.Image"), optional_import("PIL.ImageOps")
    try:
        image = pil.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS)
        image.load()
    except Exception as error:  # the decoders raise whatever their parsers stumble over
        raise ValueError(f"{name}: got {error!s}, allowed: a whole PNG, JPEG or TIFF image") from error
    frames = getattr(image, "n_frames", 1)
    require(frames == 1 or image.format == "MPO", f"{name}: frames", frames, "a single image per file")
    return ops.exif_transpose(image)


def _to_pixels(image: Any, name: str, channels: int | None) -> Any:
    """Pillow's modes reduced to three: L, RGB and F (float32 for everything deeper than 8 bit)."""
    if image.mode == "F" or image.mode.startswith("I"):
        return image.convert("F") if image.mode in ("F", "I") else _deep_grey(image)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        require(int(alpha.min()) == 255, f"{name}: alpha", int(alpha.min()), "an opaque image (255)")
    own = 1 if image.mode in _GREY else 3
    return image.convert("L" if (channels or own) == 1 else "RGB")


def _deep_grey(image: Any) -> Any:
    # Pillow's own conversion of the 16-bit modes differs between versions; numpy's does not
    return optional_import("PIL.Image").fromarray(np.asarray(image).astype(np.float32))


def _square(image: Any, size: int) -> Any:
    pil = optional_import("PIL.Image")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side == size:
        return image
    # bicubic overshoots at edges: Pillow clips 8 bit by itself, deep pixels need a filter that cannot
    kind = pil.Resampling.BILINEAR if image.mode == "F" else pil.Resampling.BICUBIC
    return image.resize((size, size), kind)
