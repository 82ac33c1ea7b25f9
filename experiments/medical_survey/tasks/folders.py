"""A folder of cases: a sub-folder for each field, files that belong together by equal names.

    FOLDER/A/case1.nii.gz   FOLDER/B/case1.nii.gz   FOLDER/mask/case1.nii.gz   FOLDER/labels.csv

Files are NIfTI volumes (each of their axial slices is a case), folders of DICOM slices, or pictures (PNG,
JPEG, TIFF). ``mask`` is 0 where there is nothing and anything else where there is something; further
annotators are ``mask2``, ``mask3``, ... ``labels.csv`` holds lines ``name,label`` with labels 0, 1, ...;
without it a case is labelled by whether its mask is empty. Patients (files), not slices, are held out; of a
single volume its middle slices are, and two on either side of them are not used.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffax.checks import require
from diffax.data import Batch, Volume, display_slice, read_image, read_volume
from diffax.data.ranges import to_unit_range
from diffax.data.slices import fit_square
from diffax.data.source import held_out

_VOLUMES = (".nii", ".nii.gz")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_GAP = 2  # slices of a single volume between those for training and those for tests
_SHIFT_MM = 0.1  # by which voxels of two files that belong together may lie apart


def read(config: Mapping[str, Any], split: str, needs: Sequence[str]) -> Batch:
    """Every case of a split with the fields that are needed; ``ValueError`` naming the file that is wrong."""
    root = Path(config["source"])
    require(root.is_dir(), "config.data.source", str(root), "phantoms, or a folder of cases")
    fields = [field for field in needs if field not in ("label", "annotators")]
    masks = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name.startswith("mask"))
    if "annotators" in needs or ("label" in needs and not (root / "labels.csv").exists()):
        fields += [name for name in ("mask", *masks) if name not in fields]
    files = {field: _files(root / field) for field in fields}
    names = _common_names(root, files)
    labels = _labels(root / "labels.csv", names) if (root / "labels.csv").exists() else None
    alone = len(names) == 1
    chosen = (
        names
        if alone
        else [names[i] for i in held_out(len(names), split, config["holdout"] or None, "files")]
    )
    cases = [_case(config, name, {f: files[f][name] for f in fields}) for name in chosen]
    if alone and split != "all":
        cases = [_part(cases[0], split, config["holdout"], str(root))]
    found = {field: np.concatenate([case[field] for case in cases]) for field in fields}
    if labels is not None:
        counts = [len(case[fields[0]]) for case in cases]
        found["label"] = np.repeat([labels[name] for name in chosen], counts).astype(np.int32)
    elif "mask" in found:
        found["label"] = found["mask"].any(axis=(1, 2, 3)).astype(np.int32)
    if "label" in needs and split == "train":
        _check_classes(found["label"], config["classes"], str(root))
    if "annotators" in needs:
        found["annotators"] = np.concatenate([found[name] for name in masks], axis=-1)
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Readable files of a field by their names without the suffix; folders of DICOM slices by their own."""
    require(folder.is_dir(), "config.data.source", str(folder), "a folder of this name, one for each field")
    found = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in (*_VOLUMES, *_PICTURES) if path.name.lower().endswith(s)), None)
        if path.is_dir() and not path.name.startswith("."):
            found[path.name] = path
        elif suffix and not path.name.startswith("."):
            found[path.name[: -len(suffix)]] = path
    kinds = "NIfTI volumes, folders of DICOM slices, PNG, JPEG or TIFF pictures"
    require(bool(found), str(folder), "no file that can be read", kinds)
    return found


def _common_names(root: Path, files: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """The names that all fields have; a file without its partner is an error."""
    first, *others = files
    for other in others:
        alone = sorted(set(files[first]) ^ set(files[other]))
        allowed = f"a file of each name in both {root / first} and {root / other}"
        require(not alone, "pairs by file name", alone[:3], allowed)
    return sorted(files[first])


def _labels(path: Path, names: Sequence[str]) -> dict[str, int]:
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8").splitlines()) if row]
        found = {row[0].strip(): int(row[1]) for row in rows if row[1].strip().lstrip("-").isdigit()}
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: got {error}, allowed: lines name,label") from None
    missing = [name for name in names if name not in found]
    require(not missing, str(path), f"no label of {missing[:3]}", "a line name,label for each file")
    classes = sorted({found[name] for name in names})
    require(classes == list(range(len(classes))), f"{path}: labels", classes, "0, 1, ... without gaps")
    return found


def _check_classes(labels: np.ndarray, classes: int, where: str) -> None:
    """Every class is there to be learnt, and no other; 0 classes ignore labels."""
    found = [int(k) for k in np.unique(labels)]
    allowed = f"0 to {classes - 1}, each at least once (or another --config.data.classes, 0 to ignore labels)"
    require(classes == 0 or found == list(range(classes)), f"{where}: labels for training", found, allowed)


def _case(config: Mapping[str, Any], name: str, paths: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """All slices of one name: (slices, size, size, 1) of each field, checked to lie in the same place."""
    first = next(iter(paths))
    volumes = {field: _open(path) for field, path in paths.items()}
    found = {}
    for field, volume in volumes.items():
        where = str(paths[field])
        same = volume.array.shape == volumes[first].array.shape
        require(
            same, f"{where}: shape", volume.array.shape, f"{volumes[first].array.shape}, as {paths[first]}"
        )
        apart = float(np.abs(volume.affine - volumes[first].affine).max())
        require(apart <= _SHIFT_MM, f"{where}: affine", f"{apart:.3g} mm off", f"that of {paths[first]}")
        found[field] = _slices(config, field, volume, where)
    shown = (found[first] > -1).mean(axis=(1, 2, 3)) >= config["min_content"]
    require(
        bool(shown.any()),
        "config.data.min_content",
        config["min_content"],
        f"leaves slices of {paths[first]}",
    )
    return {field: values[shown] for field, values in found.items()}


def _part(case: dict[str, np.ndarray], split: str, share: float, where: str) -> dict[str, np.ndarray]:
    """The middle of a volume for tests, or what is left of it for training."""
    count = len(next(iter(case.values())))
    held = max(1, round(count * share))
    require(
        0 < share < 1 and count >= held + 2 * _GAP + 1,
        "config.data.holdout",
        share,
        f"leaves slices of {where}",
    )
    first = (count - held) // 2
    rows = np.arange(count)
    kept = (rows >= first) & (rows < first + held)
    if split == "train":
        kept = (rows < first - _GAP) | (rows >= first + held + _GAP)
    return {field: values[kept] for field, values in case.items()}


def _open(path: Path) -> Volume:
    """A volume, or a picture as one of a single slice, in [0, 1]."""
    if path.is_dir() or path.name.lower().endswith(_VOLUMES):
        return read_volume(path)
    image = (read_image(path, channels=1)[..., 0].astype(np.float32) + 1) / 2
    return Volume(np.ascontiguousarray(image.T[::-1, ::-1, None]), np.eye(4))


def _slices(
    config: Mapping[str, Any], field: str, volume: Volume, where: str
) -> Float[np.ndarray, "z size size 1"]:
    require(bool(np.isfinite(volume.array).all()), f"{where}: voxels", "nan or inf", "finite values")
    is_mask = field.startswith("mask")
    array = (volume.array != 0).astype(np.float32) if is_mask else _scaled(config, volume, where)
    spacing = (volume.spacing[1], volume.spacing[0])
    planes = [display_slice(array, "axial", k) for k in range(array.shape[2])]
    if is_mask:  # as an image in [-1, 1] the same way, then back to 0 and 1
        planes = [fit_square(2 * plane - 1, spacing, config["size"]) > 0 for plane in planes]
    else:
        planes = [fit_square(plane, spacing, config["size"]) for plane in planes]
    return np.stack(planes).astype(np.float32)[..., None]


def _scaled(config: Mapping[str, Any], volume: Volume, where: str) -> np.ndarray:
    """Greys in [-1, 1]: by ``config.data.value_range``, else from 0 to the volume's largest."""
    asked = tuple(float(v) for v in config["value_range"])
    require(len(asked) in (0, 2), "config.data.value_range", asked, "(low, high), or () for 0 to the largest")
    low, high = asked or (0.0, float(volume.array.max()))
    require(high > low, f"{where}: largest value", high, f"above {low}")
    return to_unit_range(volume.array, (low, high))
