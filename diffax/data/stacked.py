"""Stacked images: independent grey ones as the channels of one, so that k classes make k^c modes.

The standard test of mode coverage (Metz et al. 2017, arXiv:1611.02163, appendix D): three digits on the
channels of an image are 1,000 equally likely modes, and a classifier of digits can read each of them.
"""

import numpy as np

from diffax.checks import require
from diffax.data.source import Item, Source, image_spec, stack_items


class StackedSource:
    """``n`` images with ``channels`` items of a one-channel source each, drawn once and for all.

    Which items image i stacks follows from ``Philox(seed)``: it is the same everywhere, and whatever n.
    ``pad`` adds so many pixels of background (-1) on every side. The label reads the classes as digits, the
    first channel's first: ``100 a + 10 b + c`` of ten classes. The source is read into memory here.
    Raises ``ValueError`` for a source without labels or not grey.
    """

    def __init__(self, source: Source, n: int, *, channels: int = 3, pad: int = 0, seed: int = 0) -> None:
        shape, classes = source.spec.shapes["image"], source.spec.num_classes
        require(len(shape) == 3 and shape[-1] == 1, "source: image shape", shape, "(h, w, 1)")
        require(classes is not None, "source", "no labels", "a source with labels")
        require(n >= 1, "n", n, "at least 1")
        require(channels >= 1 and pad >= 0, "channels, pad", (channels, pad), "at least 1 and 0")
        assert classes is not None
        whole = stack_items(source)
        margin = ((0, 0), (pad, pad), (pad, pad))
        self._images = np.pad(whole["image"][..., 0], margin, constant_values=-1)
        rng = np.random.Generator(np.random.Philox(seed))
        self._chosen = rng.integers(len(source), size=(n, channels))
        self._labels = whole["label"][self._chosen] @ classes ** np.arange(channels)[::-1]
        self.spec = image_spec((*self._images.shape[1:], channels), classes**channels)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Item:
        image = np.stack([self._images[i] for i in self._chosen[index]], axis=-1)
        return {"image": image, "label": self._labels[index].astype(np.int32)}
