"""TensorFlow Datasets as sources, read from prepared array_record files, without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.data.ranges import ValueRange, check_values, resolve_range, to_unit_range
from diffax.data.source import Item, image_spec


class TfdsSource:
    """Items ``image`` and ``label`` of a prepared TFDS data set; see :func:`open_tfds`."""

    def __init__(
        self, records: Any, num_classes: int | None, name: str, value_range: ValueRange | None
    ) -> None:
        self._records, self._name = records, name
        first = np.asarray(records[0]["image"])
        self._range = resolve_range(f"{name}: image", first.dtype, value_range)
        self.spec = image_spec(first.shape, num_classes)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Item:
        record = self._records[index]
        image, expected = np.asarray(record["image"]), self.spec.shapes["image"]
        name = f"{self._name}[{index}]"
        require(image.shape == expected, f"{name}: shape", image.shape, f"{expected}, as the first image")
        check_values(name, image, self._range)
        item = {"image": to_unit_range(image, self._range)}
        if self.spec.num_classes is not None:
            item["label"] = np.asarray(record["label"], np.int32)
        return item


def open_tfds(
    name: str,
    split: str = "train",
    *,
    data_dir: str | Path | None = None,
    value_range: ValueRange | None = None,
) -> TfdsSource:
    """Open a TFDS data set that is prepared as array_record; nothing is built or downloaded.

    ``split`` may be a slice as TFDS writes it ("train[:90%]"). The data set must have an ``image``
    feature of one shape, and may have a ``label``. Needs the extra ``tfds``. Raises ``ValueError``
    with the command that prepares the data set where it is missing.
    """
    tfds = optional_import("tensorflow_datasets", "tfds")
    where = None if data_dir is None else str(data_dir)
    try:
        records = tfds.data_source(name, split=split, data_dir=where, download=False)
        features = records.dataset_info.features
        length = len(records)
    except Exception as error:  # TFDS reports an absent data set in a dozen ways
        command = f"tfds build {name} --file_format=array_record"
        allowed = f"a data set prepared by `{command}` with that split ({type(error).__name__}: {error!s})"
        raise ValueError(f"tfds: got {name!r}, split {split!r} in {where!r}, allowed: {allowed}") from error
    require("image" in features, f"tfds:{name}: features", sorted(features), "an 'image' feature")
    require(length > 0, f"tfds:{name}: split", split, "a split with at least one item")
    classes = getattr(features["label"], "num_classes", None) if "label" in features else None
    return TfdsSource(records, classes, f"tfds:{name}", value_range)
