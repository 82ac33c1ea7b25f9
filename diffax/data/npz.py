"""Images in a NumPy ``.npz`` file: with splits as Keras' ``mnist.npz``, or one ``image`` array."""

import zipfile
from pathlib import Path

import numpy as np

from diffax.checks import require, require_one_of
from diffax.data.ranges import ValueRange
from diffax.data.source import ArraySource, Source, check_labels, split_source


def open_npz(
    path: str | Path,
    split: str = "train",
    *,
    value_range: ValueRange | None = None,
    num_classes: int | None = None,
    holdout: float | None = None,
) -> Source:
    """Open ``x_train, y_train, x_test, y_test`` or ``image, label`` of a ``.npz`` file; all is checked now.

    Images are (n, h, w), (n, h, w, c) or (n, d, h, w, c); labels may be left out. A file with one
    ``image`` array is split by ``holdout`` (see ``split_source``). Raises ``ValueError`` that names the
    file and the array for a file that cannot be read, other names, shapes or values.
    """
    arrays = read_arrays(path)
    if "image" in arrays:
        whole = _source(path, arrays, [("image", "label")], value_range, num_classes)
        return split_source(whole, split, holdout)
    parts = [part for part in ("train", "test") if f"x_{part}" in arrays]
    require(bool(parts), f"{path}: arrays", sorted(arrays), "x_train and x_test, or image")
    require_one_of(f"split of {path}", split, (*parts, "all"))
    chosen = parts if split == "all" else [split]
    return _source(path, arrays, [(f"x_{part}", f"y_{part}") for part in chosen], value_range, num_classes)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz`` file; pickled objects are refused. Raises ``ValueError`` naming the file."""
    require(Path(path).is_file(), "path", str(path), "an existing .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: got {error!s}, allowed: a .npz file of plain arrays") from error


def _source(
    path: str | Path,
    arrays: dict[str, np.ndarray],
    pairs: list[tuple[str, str]],
    value_range: ValueRange | None,
    num_classes: int | None,
) -> ArraySource:
    """The (image, label) arrays of some splits, one after the other, as one source."""
    names = [x for x, _ in pairs]
    field = f"{path}: {' + '.join(names)}"
    for x in names:  # a dtype decides the range: uint8 beside float would be scaled by two rules
        same = (arrays[x].shape[1:], arrays[x].dtype) == (arrays[names[0]].shape[1:], arrays[names[0]].dtype)
        allowed = f"shape and dtype of {names[0]}"
        require(same, f"{path}: {x}", f"{arrays[x].dtype.name} {arrays[x].shape}", allowed)
    image = np.concatenate([arrays[x] for x in names]) if len(pairs) > 1 else arrays[names[0]]
    label, classes = _labels(path, arrays, [y for _, y in pairs], num_classes)
    image = image[..., None] if image.ndim == 3 else image
    return ArraySource(image, label, value_range=value_range, num_classes=classes, name=field)


def _labels(
    path: str | Path, arrays: dict[str, np.ndarray], names: list[str], num_classes: int | None
) -> tuple[np.ndarray | None, int | None]:
    present = [y for y in names if y in arrays]
    require(len(present) in (0, len(names)), f"{path}: labels", present, f"all of {names}, or none")
    if not present:
        return None, None
    every = {y: arrays[y] for y in arrays if y == "label" or y.startswith("y_")}
    checked = {y: check_labels(f"{path}: {y}", v, len(v), num_classes) for y, v in every.items()}
    # a class may be missing from one split: count over all
    classes = max(classes for _, classes in checked.values())
    return np.concatenate([checked[y][0] for y in names]), classes
