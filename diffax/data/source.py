"""Sources: random access to items, each a dict of numpy arrays of fixed shape.

A source is anything with ``len``, ``source[i] -> dict`` and a ``spec``; the pipeline needs no more.
Image sources give ``"image"``, float32 in [-1, 1], channels last, and ``"label"``, int32, if known.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from diffax.checks import require, require_one_of
from diffax.data.ranges import ValueRange, check_images, resolve_range, to_unit_range

Item = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]  # as Item, with a leading axis


class SourceSpec(NamedTuple):
    """What every item of a source holds: shape and dtype by field, and the classes of ``"label"``."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None


@runtime_checkable
class Source(Protocol):
    """Random access to items; ``grain.MapDataset.source`` takes it as it is."""

    @property
    def spec(self) -> SourceSpec: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...


def image_spec(
    shape: Sequence[int], num_classes: int | None, class_names: tuple[str, ...] | None = None
) -> SourceSpec:
    """The spec of an image source; ``num_classes=None`` means that items carry no label."""
    shapes: dict[str, tuple[int, ...]] = {"image": tuple(shape)}
    dtypes: dict[str, np.dtype] = {"image": np.dtype(np.float32)}
    if num_classes is not None:
        shapes["label"], dtypes["label"] = (), np.dtype(np.int32)
    return SourceSpec(shapes, dtypes, num_classes, class_names)


def check_labels(
    field: str, label: Shaped[np.ndarray, "..."], n: int, num_classes: int | None = None
) -> tuple[Int[np.ndarray, "n"], int]:
    """Labels as int32 of shape (n,) and the number of classes (the largest label plus one unless given).

    Raises ``ValueError`` for another length, for labels that are not integers, or outside
    [0, num_classes).
    """
    label = np.asarray(label)
    label = label[:, 0] if label.shape == (n, 1) else label  # the layout of some CIFAR files
    require(label.shape == (n,), f"{field}: shape", label.shape, f"({n},), one label per image")
    require(label.dtype.kind in "iu", f"{field}: dtype", label.dtype.name, "an integer type")
    classes = int(label.max()) + 1 if num_classes is None else num_classes
    for extreme in (int(label.min()), int(label.max())):
        require(0 <= extreme < classes, field, extreme, f"labels in [0, {max(classes, 1)})")
    return label.astype(np.int32), classes


class ArraySource:
    """Images that lie in memory, ``Shaped[np.ndarray, "n h w c"]`` or ``"n d h w c"``.

    ``uint8`` maps from [0, 255] to [-1, 1]; floats must be in [-1, 1] already, unless ``value_range``
    gives the (low, high) that maps to [-1, 1]. Every image is checked here, at opening; the array
    keeps its own dtype and is converted item by item. ``name`` is what errors call the array.
    """

    def __init__(
        self,
        image: Shaped[np.ndarray, "n ..."],
        label: Shaped[np.ndarray, "..."] | None = None,
        *,
        value_range: ValueRange | None = None,
        num_classes: int | None = None,
        name: str = "image",
    ) -> None:
        image = np.asarray(image)
        allowed = "(n, h, w, c) or (n, d, h, w, c) with n >= 1"
        require(image.ndim in (4, 5) and image.size > 0, f"{name}: shape", image.shape, allowed)
        self._range = resolve_range(name, image.dtype, value_range)
        check_images(name, image, self._range)
        self._image, self._label, classes = image, None, None
        if label is not None:
            self._label, classes = check_labels(f"label of {name}", label, len(image), num_classes)
        self.spec = image_spec(image.shape[1:], classes)

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, index: int) -> Item:
        item = {"image": to_unit_range(self._image[index], self._range)}
        if self._label is not None:
            item["label"] = self._label[index]
        return item


class Subset:
    """The items of a source at the given indices, in that order."""

    def __init__(self, source: Source, indices: Sequence[int] | Int[np.ndarray, "m"]) -> None:
        self._source, self._indices = source, np.asarray(indices, np.int64)
        require(len(self._indices) > 0, "indices", "an empty list", "at least one index")
        for extreme in (int(self._indices.min()), int(self._indices.max())):
            require(0 <= extreme < len(source), "indices", extreme, f"0 .. {len(source) - 1}")
        self.spec = source.spec

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:
        return self._source[int(self._indices[index])]


def fixed_order(n: int) -> Int[np.ndarray, "n"]:
    """A permutation of 0 .. n-1 that is the same everywhere: the indices sorted by their SHA-256.

    Random generators may change their streams between versions; a held-out split must not.
    """
    digests = [hashlib.sha256(str(i).encode()).digest() for i in range(n)]
    return np.asarray(sorted(range(n), key=digests.__getitem__), np.int64)


def held_out(n: int, split: str, holdout: float | None, unit: str = "items") -> Int[np.ndarray, "m"]:
    """Indices of ``"all"``, ``"train"`` or ``"test"`` among n items that have no splits of their own.

    ``holdout`` in (0, 1) is the share that is kept for ``"test"``; which ones, ``fixed_order`` says.
    Raises ``ValueError`` when train or test is asked for without it: using the same items for
    both would pass unnoticed.
    """
    require_one_of("split", split, ("all", "train", "test"))
    if split == "all":
        return np.arange(n)
    valid = holdout is not None and 0 < holdout < 1
    allowed = f"a share in (0, 1), because this data has no {split!r} split of its own (or split='all')"
    require(valid, "holdout", holdout, allowed)
    assert holdout is not None
    held = max(1, round(n * holdout))
    order = fixed_order(n)
    require(held < n, "holdout", holdout, f"a share that leaves some of {n} {unit}")
    return np.sort(order[:held] if split == "test" else order[held:])


def split_source(source: Source, split: str, holdout: float | None) -> Source:
    """The part of a source that :func:`held_out` says; the source itself for ``"all"``."""
    indices = held_out(len(source), split, holdout)
    return source if split == "all" else Subset(source, indices)


def stack(items: Sequence[Item]) -> Batch:
    """A batch of items of equal shapes."""
    return {field: np.stack([item[field] for item in items]) for field in items[0]}


def stack_items(source: Source, limit: int | None = None) -> Batch:
    """The first ``limit`` items of a source (all by default) as one batch."""
    return stack([source[i] for i in range(len(source) if limit is None else min(limit, len(source)))])
