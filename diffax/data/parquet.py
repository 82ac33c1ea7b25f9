"""Images in Parquet files as data-set hubs export them: encoded bytes in ``image``, classes in ``label``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.encoded import EncodedSource
from diffax.data.optional import optional_import
from diffax.data.ranges import ValueRange
from diffax.data.source import Source, split_source


def open_parquet(
    path: str | Path,
    split: str = "all",
    *,
    holdout: float | None = None,
    **options: Any,
) -> Source:
    """One Parquet file (split by ``holdout``), or a folder of shards whose names begin with the split.

    ``options`` are those of :func:`read_parquet`. Raises ``ValueError`` for missing files, columns,
    rows or images, naming the file and the row.
    """
    root = Path(path)
    if root.is_file():
        return split_source(read_parquet([root], **options), split, holdout)
    prefix = "" if split == "all" else split
    shards = sorted(file for file in root.rglob("*.parquet") if file.name.startswith(prefix))
    require(bool(shards), "path", str(path), f"a .parquet file, or a folder with {prefix or ''}*.parquet")
    return read_parquet(shards, **options)


def read_parquet(
    paths: Sequence[Path],
    *,
    image: str = "image",
    label: str = "label",
    size: int | None = None,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    num_classes: int | None = None,
    preload: bool = True,
) -> Source:
    """Read columns of PNG or JPEG bytes (or of structs with a ``bytes`` field) and integer labels.

    ``image`` and ``label`` name the columns; a file without the label column gives items without
    labels. All images are decoded and checked now unless ``preload`` is false, which keeps the
    encoded bytes in memory and decodes at each reading. ``size``, ``channels``: see ``decode_image``.
    Give ``num_classes`` where one split may lack the last class: files know nothing of each other.
    """
    tables = [_read_columns(path, image, label) for path in paths]
    files = zip(paths, tables, strict=True)
    names = [f"{path}: row {i}" for path, (blobs, _) in files for i in range(len(blobs))]
    data = [blob for blobs, _ in tables for blob in blobs]
    for blob, name in zip(data, names, strict=True):
        require(isinstance(blob, bytes), name, blob, f"encoded bytes in column {image!r}")
    labels = [part for _, part in tables if part is not None]
    allowed = f"column {label!r} in every file or in none"
    require(len(labels) in (0, len(paths)), "labels", [str(p) for p in paths], allowed)
    source = EncodedSource(
        data,
        names,
        np.concatenate(labels) if labels else None,
        size=size,
        channels=channels,
        value_range=value_range,
        num_classes=num_classes,
    )
    return source.preload() if preload else source


def _read_columns(path: Path, image: str, label: str) -> tuple[list[Any], np.ndarray | None]:
    parquet = optional_import("pyarrow.parquet")
    require(path.is_file(), "path", str(path), "an existing .parquet file")
    try:
        file = parquet.ParquetFile(path)
        present = file.schema_arrow.names
        table = file.read(columns=[name for name in (image, label) if name in present])
    except Exception as error:  # pyarrow's errors share no base class with OSError
        raise ValueError(f"{path}: got {error!s}, allowed: a readable Parquet file") from error
    require(image in present, f"{path}: columns", present, f"a column {image!r} of encoded images")
    blobs = table.column(image).to_pylist()
    blobs = [blob["bytes"] if isinstance(blob, dict) and "bytes" in blob else blob for blob in blobs]
    return blobs, np.asarray(table.column(label)) if label in present else None
