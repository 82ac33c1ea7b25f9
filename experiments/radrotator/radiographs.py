"""A user's radiograph as the network takes it, and the network's views as pictures of the same shape."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from diffax.data import Radiograph, fit_square, undo_square
from experiments.radrotator.angles import Angles

_SPREAD = 0.2  # of values in [0, 1], where the colours of the uncertainty end


class Given(NamedTuple):
    """A radiograph in [0, 1], the shape of the pictures made of it, and how it was read."""

    image: Float[np.ndarray, "rows columns"]
    shape: tuple[int, int]
    window: tuple[float, float] | None
    how: str
    inverted: bool

    def square(self, size: int) -> Float[np.ndarray, "size size"]:
        """As the network takes it: a square over its whole range of greys."""
        fitted = fit_square(self.image, size)
        span = float(np.ptp(fitted))
        return (fitted - fitted.min()) / (span or 1.0)

    def shown(self) -> UInt8[np.ndarray, "h w"]:
        """As a picture."""
        return _bytes(undo_square(fit_square(self.image, max(self.shape)), self.shape))


def given_of(radiograph: Radiograph, size: int) -> Given:
    """For pictures whose longer side has so many pixels."""
    rows, columns = radiograph.image.shape
    scale = size / max(rows, columns)
    shape = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    return Given(radiograph.image, shape, radiograph.window, radiograph.how, radiograph.inverted)


def frame_of(
    given: Given, view: Float[np.ndarray, "n n"], at: Angles, limit: float
) -> UInt8[np.ndarray, "h w"]:
    """A view as a picture of the radiograph's shape; marked where the angle was not trained."""
    frame = _bytes(undo_square(view, given.shape))
    return mark(frame, f"outside ±{limit:g}°") if max(map(abs, at)) > limit + 1e-6 else frame


def heat(given: Given, spread: Float[np.ndarray, "n n"]) -> UInt8[np.ndarray, "h w 3"]:
    """Standard deviations in colours: black is none, white a fifth of the range or more."""
    level = np.clip(undo_square(np.asarray(spread / _SPREAD, np.float32), given.shape), 0, 1)
    colours = np.stack([np.clip(3 * level - k, 0, 1) for k in range(3)], axis=-1)  # black, red, yellow, white
    return np.round(255 * colours).astype(np.uint8)


def mark(frame: UInt8[np.ndarray, "h w"], text: str) -> UInt8[np.ndarray, "h w"]:
    """A frame around the picture and a line of text at its foot."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(frame)
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    letters = max(10, min(height, width) // 16)
    draw.rectangle((0, height - 2 * letters, width, height), fill=0)
    draw.text(
        (width // 2, height - letters), text, fill=255, anchor="mm", font=ImageFont.load_default(letters)
    )
    draw.rectangle((0, 0, width - 1, height - 1), outline=255, width=max(2, letters // 8))
    return np.asarray(picture)


def _bytes(image: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
