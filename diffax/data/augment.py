"""Augmentations: functions ``(item, rng) -> item``; the pipeline gives each item its own generator.

Worker processes get them pickled: module-level functions and ``functools.partial``, not closures, here.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

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
