"""Contact sheets: many views on one picture, each with its angles."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from diffax.io import write_atomically

MOST = 49
_WIDTH, _GAP = 1344, 6


def contact_sheet(
    path: Path, frames: UInt8[np.ndarray, "n rows columns"], captions: Sequence[str], title: str = ""
) -> None:
    """At most 49 of the frames, evenly chosen, in rows, as PNG; ``title`` above all."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(MOST, len(frames))).round().astype(int))
    columns = math.ceil(math.sqrt(len(chosen)))
    side = min(448, _WIDTH // columns)
    letters = max(12, side // 16)
    font, line = ImageFont.load_default(letters), int(1.6 * letters)
    width = max(columns * (side + _GAP) + _GAP, 448)
    picture = Image.new("L", (width, line + math.ceil(len(chosen) / columns) * (side + line + _GAP)), 255)
    draw = ImageDraw.Draw(picture)
    if len(chosen) < len(frames):
        title = f"{title}; {len(chosen)} of {len(frames)}"
    draw.text((_GAP, line // 2), title, fill=0, font=font, anchor="lm")
    for place, number in enumerate(chosen):
        top = line + place // columns * (side + line + _GAP)
        left = _GAP + place % columns * (side + _GAP)
        small = Image.fromarray(frames[number]).resize((side, side), Image.Resampling.LANCZOS)
        picture.paste(small, (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline=128)  # white on white, else
        draw.text((left + side // 2, top + side + line // 2), captions[number], 0, font, anchor="mm")
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
