"""Slices of volumes as an image source: NIfTI files and DICOM series, one or a folder of them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from diffax.checks import require, require_one_of
from diffax.data.dicom import dicom_geometry, is_dicom, read_dicom
from diffax.data.folder import split_folders
from diffax.data.optional import optional_import
from diffax.data.ranges import ValueRange, resolve_range, to_unit_range
from diffax.data.source import Item, SourceSpec, held_out
from diffax.data.volume import Geometry, Volume, nifti_geometry, read_nifti, spacing_of

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def read_volume(path: str | Path, *, series: str | None = None) -> Volume:
    """Read a NIfTI file, a folder of DICOM slices, or one DICOM file (see ``read_nifti``, ``read_dicom``)."""
    return read_nifti(path) if _is_nifti(Path(path)) else read_dicom(path, series=series)


def volume_geometry(path: str | Path, *, series: str | None = None) -> Geometry:
    """Shape and affine that :func:`read_volume` will give, from the headers alone."""
    return nifti_geometry(path) if _is_nifti(Path(path)) else dicom_geometry(path, series=series)


def is_volume(path: Path) -> bool:
    """True for a file that is a volume (NIfTI) or a slice of one (DICOM)."""
    return (_is_nifti(path) and path.is_file()) or is_dicom(path)


def find_volumes(path: Path) -> list[Path]:
    """NIfTI files below a folder, and its folders of DICOM files, sorted; hidden names are skipped."""
    if path.is_file():
        return [path]
    found = set()
    for file in path.rglob("*"):
        if not any(part.startswith(".") for part in file.relative_to(path).parts) and is_volume(file):
            found.add(file if _is_nifti(file) else file.parent)
    return sorted(found)


def display_slice(array: Float32[np.ndarray, "x y z"], axis: str, index: int) -> Float32[np.ndarray, "h w"]:
    """A slice of an array on RAS+ axes, turned as radiologists look at it.

    Axial: the front of the body above, its right side at the left (seen from the feet). Coronal: the head
    above, the right side at the left (seen from the front). Sagittal: the head above, the front at the
    left. ``index`` counts towards the head, the front, and the right.
    """
    require_one_of("axis", axis, _AXES)
    return np.take(array, index, axis=_AXES[axis])[::-1, ::-1].T


class SliceSource:
    """Every slice of some volumes along one axis; see :func:`open_volumes`.

    Items: ``image`` float32 (h, w, 1) in [-1, 1]; ``volume`` int32, the number of its volume in ``paths``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        axis: str = "axial",
        value_range: ValueRange | None = None,
        size: int | None = None,
        field_mm: float | None = None,
        min_content: float = 0.0,
        series: str | None = None,
        cache: int = 4,
    ) -> None:
        require_one_of("axis", axis, _AXES)
        allowed = "(low, high) that is clipped and mapped to [-1, 1], e.g. (-160, 240) HU for soft tissue"
        require(value_range is not None, "value_range", None, allowed)
        require(size is None or size >= 1, "size", size, "at least 1, or None")
        require(
            field_mm is None or (field_mm > 0 and size is not None),
            "field_mm",
            field_mm,
            "above 0, with size",
        )
        require(0 <= min_content <= 1, "min_content", min_content, "a share of pixels in [0, 1]")
        require(cache >= 1, "cache", cache, "at least 1 volume")
        require(len(paths) > 0, "volumes", 0, "at least one")
        self.paths = tuple(paths)
        self._axis, self._size, self._field_mm, self._series = axis, size, field_mm, series
        self._range = resolve_range("volumes", np.float32, value_range)
        self._geometry = [volume_geometry(path, series=series) for path in self.paths]
        self._cache: OrderedDict[int, Float32[np.ndarray, "x y z"]] = OrderedDict()
        self._capacity, self._lock = cache, threading.Lock()
        self.spec = _spec(self._shape())
        self._rows = self._select(min_content)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        volume, position = (int(v) for v in self._rows[index])
        image = display_slice(self.volume(volume), self._axis, position)
        if self._size is not None:
            image = fit_square(image, self._pixel_mm(volume), self._size, self._field_mm)
        return {"image": np.ascontiguousarray(image)[..., None], "volume": np.asarray(volume, np.int32)}

    def volume(self, index: int) -> Float32[np.ndarray, "x y z"]:
        """A volume on RAS+ axes, clipped and mapped to [-1, 1]; the last few read are kept."""
        with self._lock:
            if index not in self._cache:
                array = read_volume(self.paths[index], series=self._series).array
                self._cache[index] = to_unit_range(array, self._range)
            self._cache.move_to_end(index)
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
            return self._cache[index]

    def slice_index(self, index: int) -> tuple[int, int]:
        """The number of an item's volume, and of its slice in there (see ``display_slice``)."""
        volume, position = self._rows[index]
        return int(volume), int(position)

    def preload(self) -> None:
        """Read every volume now and keep them all: 4 bytes per voxel, in each process."""
        self._capacity = len(self.paths)
        for i in range(len(self.paths)):
            self.volume(i)

    def _pixel_mm(self, volume: int) -> tuple[float, float]:
        """Distance between rows, and between columns, of a displayed slice."""
        across, up = (
            s for i, s in enumerate(spacing_of(self._geometry[volume].affine)) if i != _AXES[self._axis]
        )
        return up, across

    def _shape(self) -> tuple[int, int, int]:
        if self._size is not None:
            return self._size, self._size, 1
        shapes = []
        for path, geometry in zip(self.paths, self._geometry, strict=True):
            across, up = (n for i, n in enumerate(geometry.shape) if i != _AXES[self._axis])
            shapes.append((up, across, 1))
            allowed = f"{shapes[0]}, the shape of {self.paths[0]} (or give size)"
            require(shapes[-1] == shapes[0], f"{path}: shape of a slice", shapes[-1], allowed)
        return shapes[0]

    def _select(self, min_content: float) -> Int[np.ndarray, "n 2"]:
        """(volume, slice) of every item."""
        rows = []
        for volume, geometry in enumerate(self._geometry):
            kept = np.arange(geometry.shape[_AXES[self._axis]])
            if min_content > 0:
                others = tuple(i for i in range(3) if i != _AXES[self._axis])
                kept = kept[(self.volume(volume) > -1).mean(axis=others) >= min_content]
            rows.append(np.stack([np.full_like(kept, volume), kept], axis=1))
        joined = np.concatenate(rows).astype(np.int64)
        require(len(joined) > 0, "min_content", min_content, "a share that leaves some slices")
        return joined

    def __getstate__(self) -> dict[str, Any]:
        # into worker processes: neither the lock nor what this process has read
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _cache=OrderedDict(), _lock=threading.Lock())


def open_volumes(
    path: str | Path,
    split: str = "train",
    *,
    axis: str = "axial",
    value_range: ValueRange | None = None,
    size: int | None = None,
    field_mm: float | None = None,
    holdout: float | None = None,
    min_content: float = 0.0,
    series: str | None = None,
    cache: int = 4,
    preload: bool = False,
) -> SliceSource:
    """Open a volume or a folder of them as a source of slices, displayed as ``display_slice`` says.

    Args:
      path: a ``.nii``, ``.nii.gz`` or DICOM file, or a folder with any of them below it; a folder that
        directly holds DICOM files is one volume.
      split: ``path/split/`` where there are such folders, else ``holdout`` is the share of *patients* kept
        for "test": of the folders directly in ``path`` (below folders that all volumes share), or of
        volumes that lie directly there. Slices of one patient are never on both sides.
      axis: "axial", "coronal" or "sagittal", by the nearest stored axis: nothing is resliced.
      value_range: (low, high) that is clipped and maps to [-1, 1].
      size: side of the square result in pixels, resized with antialiasing; None keeps stored pixels.
      field_mm: side of the centred square that ``size`` shows, in mm, cut out or filled up with -1; None
        takes the longer side of each slice. Pixels become square whatever the spacing.
      min_content: leave out slices with a smaller share of pixels above ``low``; reads all volumes once.
      series: ``SeriesInstanceUID`` to take from DICOM folders.
      cache: volumes kept in memory, in each process.
      preload: keep all. Otherwise a shuffled order over more volumes than ``cache`` reads one per slice.

    Raises ``ValueError`` for no volumes, unreadable ones, no ``value_range``, and slices of unequal shape.
    """
    found = volume_paths(path, split, holdout)
    source = SliceSource(
        found,
        axis=axis,
        value_range=value_range,
        size=size,
        field_mm=field_mm,
        min_content=min_content,
        series=series,
        cache=cache,
    )
    if preload:
        source.preload()
    return source


def volume_paths(path: str | Path, split: str = "train", holdout: float | None = None) -> list[Path]:
    """The volumes of a split, as :func:`open_volumes` finds them: whole patients on either side."""
    root = Path(path)
    require(root.exists(), "path", str(path), "an existing volume, or folder of volumes")
    splits = split_folders(root, split)
    if splits:
        beside = [str(p) for p in find_volumes(root) if not any(p.is_relative_to(f) for f in splits.values())]
        require(
            not beside, f"volumes of {path}", beside[:5], f"nothing beside the split folders {sorted(splits)}"
        )
    folders = [splits[split]] if split in splits else [*splits.values()] or [root]
    found = [volume for folder in folders for volume in find_volumes(folder)]
    require(len(found) > 0, f"volumes in {path}", 0, "at least one .nii, .nii.gz or DICOM file")
    if not splits:
        owners = _owners(found, root)
        patients = sorted(set(owners))
        held = {patients[i] for i in held_out(len(patients), split, holdout, "patients")}
        found = [volume for volume, owner in zip(found, owners, strict=True) if owner in held]
    return found


def fit_square(
    image: Float32[np.ndarray, "h w"], pixel_mm: tuple[float, float], size: int, field_mm: float | None = None
) -> Float32[np.ndarray, "size size"]:
    """The centred square of ``field_mm`` (None: the longer side), at (size, size).

    ``pixel_mm`` is the distance between rows and between columns. What the image lacks is -1, what is too
    much is cut off; then bilinear with antialiasing, which cannot overshoot.
    """
    side = field_mm or max(n * mm for n, mm in zip(image.shape, pixel_mm, strict=True))
    target = [max(1, round(side / mm)) for mm in pixel_mm]
    for axis, n in enumerate(target):
        image = _centre(image, n, axis)
    if image.shape == (size, size):
        return image
    pil = optional_import("PIL.Image")
    resized = pil.fromarray(np.ascontiguousarray(image)).resize((size, size), pil.Resampling.BILINEAR)
    return np.clip(np.asarray(resized, np.float32), -1, 1)


def fit_volume(
    volume: Volume, value_range: tuple[float, float], size: int, field_mm: float | None = None
) -> Volume:
    """A volume whose axial slices are (size, size), as :func:`fit_square` makes them; slices stay as many.

    Values are clipped to ``value_range``, and what a slice lacks is its low end. The affine says where the
    new voxels lie.
    """
    pixel_mm = volume.spacing[1], volume.spacing[0]
    unit = to_unit_range(volume.array, value_range)
    slices = [
        fit_square(display_slice(unit, "axial", k), pixel_mm, size, field_mm) for k in range(unit.shape[2])
    ]
    low, high = value_range
    array = np.stack([image.T[::-1, ::-1] for image in slices], axis=-1)
    array = (array + 1) / 2 * (high - low) + low
    return Volume(np.ascontiguousarray(array, np.float32), volume.affine @ _places(volume, size, field_mm))


def _places(volume: Volume, size: int, field_mm: float | None) -> Float64[np.ndarray, "4 4"]:
    """From indices of a fitted volume to those of its source: what the crop, the flip and the resizing do."""
    own, spacing = volume.array.shape, volume.spacing
    side = field_mm or max(own[i] * spacing[i] for i in (0, 1))
    places = np.eye(4)
    for i in (0, 1):
        n = max(1, round(side / spacing[i]))
        before = (n - own[i]) // 2 if n > own[i] else -((own[i] - n) // 2)
        places[i, i] = n / size
        places[i, 3] = own[i] - 0.5 + before - (size - 0.5) * n / size
    return places


def _centre(image: Float32[np.ndarray, "h w"], n: int, axis: int) -> Float32[np.ndarray, "h2 w2"]:
    """Crop or fill one axis to n, about its middle."""
    own = image.shape[axis]
    if own >= n:
        start = (own - n) // 2
        return np.take(image, np.arange(start, start + n), axis=axis)
    before = (n - own) // 2
    widths = [(0, 0), (0, 0)]
    widths[axis] = (before, n - own - before)
    return np.pad(image, widths, constant_values=-1)


def _owners(paths: Sequence[Path], root: Path) -> list[str]:
    """The patient of each volume: its first folder where they part, or the volume itself."""
    parts = [path.relative_to(root).parts for path in paths]
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return [p[0] if p else "" for p in parts]


def _spec(shape: tuple[int, int, int]) -> SourceSpec:
    kinds = {"image": np.dtype(np.float32), "volume": np.dtype(np.int32)}
    return SourceSpec({"image": shape, "volume": ()}, kinds)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))
