"""Augmentations: functions ``(item, rng) -> item``; the pipeline gives each item its own generator.

Worker processes get them pickled: module-level functions and ``functools.partial``, not closures, here.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Shaped

from diffax.checks import require
from diffax.data.source import Item

Augmentation = Callable[[Item, np.random.Generator], Item]


def horizontal_flip(probability: float = 0.5, fields: Sequence[str] = ("image",)) -> Augmentation:
    """Mirror the width axis (the last but one, "h w c") of all named fields together, or of none."""
    require(0 <= probability <= 1, "probability", probability, "[0, 1]")

    return functools.partial(_flip, probability, tuple(fields))


def _flip(probability: float, fields: Sequence[str], item: Item, rng: np.random.Generator) -> Item:
    if rng.random() >= probability:
        return item
    return item | {field: np.flip(item[field], axis=-2) for field in fields}


def random_shift(pad: int, fields: Sequence[str] = ("image",)) -> Augmentation:
    """Move images by up to ``pad`` pixels along height and width ("... h w c"), their edges repeated.

    As if padded by ``pad`` on every side and cropped back at one of ``(2 pad + 1)^2`` places, the same for
    all steps of an item and all named fields; fields with pads of their own take an augmentation each.
    Source: Yarats et al. 2021 (arXiv:2004.13649), section 4.1.
    """
    require(isinstance(pad, int) and pad >= 0, "pad", pad, "an integer >= 0")

    return functools.partial(_shift, pad, tuple(fields))


def _shift(pad: int, fields: Sequence[str], item: Item, rng: np.random.Generator) -> Item:
    down, right = rng.integers(-pad, pad + 1, size=2).tolist()
    return item | {field: _crop(item[field], down, right) for field in fields}


def _crop(image: Shaped[np.ndarray, "*b h w c"], down: int, right: int) -> Shaped[np.ndarray, "*b h w c"]:
    """The window that begins at pixel (down, right); outside of the image stands its nearest pixel."""
    height, width = image.shape[-3:-1]
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return image.take(rows, axis=-3).take(columns, axis=-2)
