"""Pictures from arrays in [-1, 1]."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from diffax import checks
from diffax.io.files import write_atomically


def to_uint8(images: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """``[-1, 1]`` to 0..255, rounded and clipped."""
    scaled = np.round((np.asarray(images, np.float64) + 1.0) * 127.5)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def tile(
    images: Shaped[np.ndarray, "n h w c"], columns: int | None = None, *, gap: int = 1, zoom: int = 1
) -> Float[np.ndarray, "H W c"]:
    """Lay images out in rows on white, each pixel ``zoom`` times as large, ``gap`` such pixels apart."""
    images = np.asarray(images, np.float32)
    checks.require(images.ndim == 4, "images", images.shape, "shape (n, h, w, c)")
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), np.float32)
    for index, image in enumerate(images):
        top, left = (gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap))
        sheet[top : top + height, left : left + width] = image
    return sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)


def save_png(path: str | Path, image: Shaped[np.ndarray, "h w c"]) -> None:
    """Write an image in [-1, 1] with 1 or 3 channels as PNG, atomically."""
    from PIL import Image

    checks.require(image.ndim == 3 and image.shape[-1] in (1, 3), "image", image.shape, "(h, w, 1 or 3)")
    pixels = to_uint8(image)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
