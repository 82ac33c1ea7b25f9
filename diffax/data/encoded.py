"""A source of encoded images (files, or bytes of a table), decoded and checked when an item is read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from diffax.checks import require
from diffax.data.decode import decode_image
from diffax.data.ranges import ValueRange, check_values, resolve_range, to_unit_range
from diffax.data.source import ArraySource, Item, check_labels, image_spec


class EncodedSource:
    """Items decoded on demand by :func:`diffax.data.decode.decode_image`.

    Args:
      data: one path or one bytes object per image; ``names`` are what errors call them.
      label: integer labels, or None.
      size, channels: see ``decode_image``; without ``size`` all images must have the shape of the first.
      value_range: (low, high) that maps to [-1, 1]; needed for images deeper than 8 bit.

    Raises ``ValueError`` at opening for the first image and the labels, at reading for the others.
    """

    def __init__(
        self,
        data: Sequence[bytes | Path],
        names: Sequence[str],
        label: Shaped[np.ndarray, "..."] | None = None,
        *,
        size: int | None = None,
        channels: int | None = None,
        value_range: ValueRange | None = None,
        num_classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        require(len(data) > 0, "images", 0, "at least one image")
        self._data, self._names, self._label = data, names, None
        self._size, self._channels, self._value_range = size, channels, value_range
        classes = None
        if label is not None:
            self._label, classes = check_labels(f"label of {names[0]} ...", label, len(data), num_classes)
        self._shape: tuple[int, ...] | None = None
        self._shape = self.pixels(0).shape
        self.spec = image_spec(self._shape, classes, class_names)

    def __len__(self) -> int:
        return len(self._data)

    def pixels(self, index: int) -> Shaped[np.ndarray, "h w c"]:
        """One decoded image, checked, in the units of its file."""
        name = self._names[index]
        image = decode_image(self._data[index], name, size=self._size, channels=self._channels)
        allowed = f"{self._shape}, the shape of {self._names[0]} (or give size and channels)"
        require(self._shape in (None, image.shape), f"{name}: shape", image.shape, allowed)
        check_values(name, image, self.range_of(name, image))
        return image

    def range_of(self, name: str, image: Shaped[np.ndarray, "h w c"]) -> ValueRange:
        """The (low, high) of an image that maps to [-1, 1]."""
        deep = image.dtype != np.uint8
        allowed = "(low, high) that maps to [-1, 1], for an image deeper than 8 bit"
        require(not deep or self._value_range is not None, f"{name}: value_range", None, allowed)
        return resolve_range(name, image.dtype, self._value_range)

    def __getitem__(self, index: int) -> Item:
        image = self.pixels(index)
        item = {"image": to_unit_range(image, self.range_of(self._names[index], image))}
        if self._label is not None:
            item["label"] = self._label[index]
        return item

    def preload(self) -> ArraySource:
        """Decode and check everything now; needs n h w c bytes of memory for 8-bit images."""
        images = np.stack([self.pixels(i) for i in range(len(self))])
        loaded = ArraySource(
            images,
            self._label,
            value_range=self.range_of(self._names[0], images[0]),
            num_classes=self.spec.num_classes,
            name=self._names[0],
        )
        loaded.spec = self.spec
        return loaded
