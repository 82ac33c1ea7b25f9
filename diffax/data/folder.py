"""A folder of images: PNG, JPEG or TIFF, with class sub-folders and split folders where there are some."""

from pathlib import Path

import numpy as np

from diffax.checks import require, require_one_of
from diffax.data.encoded import EncodedSource
from diffax.data.ranges import ValueRange
from diffax.data.source import Source, split_source

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SPLITS = ("train", "val", "valid", "validation", "test")


def open_folder(
    path: str | Path,
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    holdout: float | None = None,
    preload: bool = False,
) -> Source:
    """Open a folder of images; items are read, decoded and checked on demand (all now: ``preload``).

    ``path/split/`` is used where it exists, else ``path`` itself with ``holdout`` (see
    ``split_source``); ``"all"`` is every split together. Sub-folders are classes, numbered in
    alphabetical order over all splits, so that a class that a split lacks does not shift the others.
    Raises ``ValueError`` for no folder, no images, or images beside class folders.
    """
    root = Path(path)
    require(root.is_dir(), "path", str(path), "an existing folder of images")
    splits = split_folders(root, split)
    if splits:
        beside = sorted({f.relative_to(root).parts[0] for _, f in _images(root)} - set(splits))
        allowed = f"nothing but the split folders {sorted(splits)}"
        require(not beside, f"images of {path}", beside, allowed)
    files = {name: _images(folder) for name, folder in (splits or {"all": root}).items()}
    classes = _class_names([c for group in files.values() for c, _ in group], str(path))
    chosen = files[split] if split in files else [entry for group in files.values() for entry in group]
    require(len(chosen) > 0, f"images in {path}", 0, "at least one of " + ", ".join(_SUFFIXES))
    source = EncodedSource(
        [file for _, file in chosen],
        [str(file) for _, file in chosen],
        np.asarray([classes.index(c) for c, _ in chosen]) if classes else None,
        size=size,
        channels=channels,
        value_range=value_range,
        num_classes=len(classes) or None,
        class_names=classes or None,
    )
    loaded = source.preload() if preload else source
    return loaded if splits else split_source(loaded, split, holdout)


def split_folders(root: Path, split: str) -> dict[str, Path]:
    """The folders "train", "test", ... of a folder; ``ValueError`` if there are some, but not ``split``."""
    splits = {name: root / name for name in _SPLITS if (root / name).is_dir()}
    if splits:
        require_one_of(f"split of {root}", split, (*splits, "all"))
    return splits


def _images(folder: Path) -> list[tuple[str, Path]]:
    """Every image below a folder as (first sub-folder or "", file), sorted; hidden names are skipped."""
    found = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.suffix.lower() in _SUFFIXES and not any(p.startswith(".") for p in parts) and file.is_file():
            found.append((parts[0] if len(parts) > 1 else "", file))
    return found


def _class_names(owners: list[str], path: str) -> tuple[str, ...]:
    names = sorted(set(owners))
    allowed = "images either in class sub-folders or directly in the folder, not both"
    require("" not in names or names == [""], f"classes of {path}", names, allowed)
    return () if names == [""] else tuple(names)
