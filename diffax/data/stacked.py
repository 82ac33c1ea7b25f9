"""Stacked images: independent grey ones as the channels of one, so that k classes make k^c modes.

The standard test of mode coverage (Metz et al. 2017, arXiv:1611.02163, appendix D): three digits on the
channels of an image are 1,000 equally likely modes, and a classifier of digits can read each of them.
"""

import numpy as np

from diffax.checks import require
from diffax.data.source import Item, Source, image_spec


class StackedSource:
    """``n`` images with ``channels`` items of a one-channel source each, drawn anew for every index.

    Item i is drawn from ``Philox(seed, i)``, the same everywhere. ``pad`` adds so many pixels of background
    (-1) on every side. The label reads the classes as digits, the first channel's first:
    ``100 a + 10 b + c`` of ten classes. Raises ``ValueError`` for a source without labels or not grey.
    """

    def __init__(self, source: Source, n: int, *, channels: int = 3, pad: int = 0, seed: int = 0) -> None:
        shape, classes = source.spec.shapes["image"], source.spec.num_classes
        require(len(shape) == 3 and shape[-1] == 1, "source: image shape", shape, "(h, w, 1)")
        require(classes is not None, "source", "no labels", "a source with labels")
        require(n >= 1, "n", n, "at least 1")
        require(channels >= 1 and pad >= 0, "channels, pad", (channels, pad), "at least 1 and 0")
        assert classes is not None
        self._source, self._n, self._channels, self._pad, self._seed = source, n, channels, pad, seed
        height, width = shape[0] + 2 * pad, shape[1] + 2 * pad
        self._places = classes ** np.arange(channels)[::-1]
        self.spec = image_spec((height, width, channels), classes**channels)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Item:
        key = np.array([self._seed, range(self._n)[index]], np.uint64)
        chosen = np.random.Generator(np.random.Philox(key=key)).integers(
            len(self._source), size=self._channels
        )
        items = [self._source[int(i)] for i in chosen]
        image = np.concatenate([item["image"] for item in items], axis=-1)
        margin = [(self._pad, self._pad), (self._pad, self._pad), (0, 0)]
        label = int(self._places @ np.array([item["label"] for item in items]))
        return {"image": np.pad(image, margin, constant_values=-1), "label": np.asarray(label, np.int32)}
