"""Volumes with their place in the patient: NIfTI files and DICOM series, on canonical axes.

Coordinates are millimetres in RAS+: x grows to the patient's right, y to the front, z to the head.
Needs ``nibabel`` and ``pydicom`` (``pip install "diffax[medical]"``). Nothing that identifies a patient is
read into a result, an error or a log; the names of files and the UIDs of series are.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from diffax.checks import require, require_one_of
from diffax.data.optional import optional_import

_TO_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they are.

    ``array[i, j, k]`` is the value (HU for CT) whose centre lies at ``affine @ (i, j, k, 1)``, in mm,
    RAS+. The axes are the stored ones, permuted and flipped so that i runs as nearly as can be to the
    right, j to the front and k to the head; nothing is interpolated, so an oblique scan stays oblique.
    """

    array: Float32[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance between neighbouring voxels along each axis, in mm."""
        return spacing_of(self.affine)


class Geometry(NamedTuple):
    """Shape and affine of a volume, on the axes of :class:`Volume`."""

    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]


def spacing_of(affine: Float64[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """The lengths of an affine's three steps, in mm."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def slice_stack(
    volume: Shaped[np.ndarray, "_ _ _"], neighbours: int, axis: int = 2
) -> Shaped[np.ndarray, "n _ _ c"]:
    """Every slice of a volume with its neighbours as channels, so that a network over images sees depth.

    ``result[i, ..., neighbours + j]`` is slice ``i + j`` along ``axis`` (2, for axial ones of a
    :class:`Volume`), j from ``-neighbours`` to ``neighbours``; the outermost slices stand for those beyond.
    Raises ValueError for a negative number of neighbours, or another axis.
    """
    require(neighbours >= 0, "neighbours", neighbours, "0 or more")
    require(-3 <= axis < 3, "axis", axis, "one of three")
    slices = np.moveaxis(volume, axis, 0)
    places = np.arange(len(slices))[:, None] + np.arange(-neighbours, neighbours + 1)
    return np.moveaxis(slices[np.clip(places, 0, len(slices) - 1)], 1, -1)


def canonical_geometry(shape: Sequence[int], affine: Float64[np.ndarray, "4 4"]) -> Geometry:
    """Shape and affine after :func:`canonical`, without the voxels."""
    orientations = optional_import("nibabel.orientations", "medical")
    axes = orientations.io_orientation(affine)
    after = [0, 0, 0]
    for stored, (target, _) in enumerate(axes):
        after[int(target)] = int(shape[stored])
    return Geometry((after[0], after[1], after[2]), affine @ orientations.inv_ornt_aff(axes, shape))


def canonical(array: Shaped[np.ndarray, "i j k"], affine: Float64[np.ndarray, "4 4"]) -> Volume:
    """Permute and flip the axes of any array and its affine to those of :class:`Volume`."""
    orientations = optional_import("nibabel.orientations", "medical")
    turned = orientations.apply_orientation(array, orientations.io_orientation(affine))
    geometry = canonical_geometry(array.shape, affine)
    return Volume(np.ascontiguousarray(turned, np.float32), geometry.affine)


def read_nifti(path: str | Path) -> Volume:
    """Read a 3-D ``.nii`` or ``.nii.gz``; a fourth axis of length one is left out.

    Scaling of the header (``scl_slope``) and its unit of length are applied. Raises ``ValueError`` naming
    the file for one that cannot be read, has another number of axes, no orientation (both
    ``sform_code`` and ``qform_code`` 0), colours, or voxels that are not finite.
    """
    image, name = _open_nifti(path), str(path)
    affine = _nifti_affine(image, name)
    try:
        array = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(image.shape[:3])
    except Exception as error:  # gzip, zlib and nibabel each have their own
        raise ValueError(f"{name}: got {error!s}, allowed: a whole NIfTI file") from error
    require(bool(np.isfinite(array).all()), f"{name}: voxels", "nan or inf", "finite values")
    return canonical(array, affine)


def nifti_geometry(path: str | Path) -> Geometry:
    """What :func:`read_nifti` will give, from the header alone."""
    image = _open_nifti(path)
    return canonical_geometry(image.shape[:3], _nifti_affine(image, str(path)))


def _open_nifti(path: str | Path) -> Any:
    nibabel, name = optional_import("nibabel", "medical"), str(path)
    require(Path(path).is_file(), "path", name, "an existing .nii or .nii.gz file")
    try:
        image = nibabel.load(path)
    except Exception as error:
        raise ValueError(f"{name}: got {error!s}, allowed: a NIfTI file") from error
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    require(isinstance(image, kinds), f"{name}: format", type(image).__name__, "NIfTI-1 or NIfTI-2")
    shape = image.shape
    valid = len(shape) >= 3 and set(shape[3:]) <= {1} and min(shape) >= 1
    require(valid, f"{name}: shape", shape, "three axes")
    require(
        image.get_data_dtype().kind in "iuf", f"{name}: dtype", str(image.get_data_dtype()), "real numbers"
    )
    return image


def _nifti_affine(image: Any, name: str) -> Float64[np.ndarray, "4 4"]:
    codes = [int(image.header[field]) for field in ("sform_code", "qform_code")]
    allowed = "sform_code or qform_code above 0: where the voxels lie is not known"
    require(any(codes), f"{name}: sform_code, qform_code", codes, allowed)
    unit = image.header.get_xyzt_units()[0]
    require_one_of(f"{name}: unit of length", unit, _TO_MM)
    affine = np.asarray(image.affine, np.float64) * np.array([[_TO_MM[unit]]] * 3 + [[1.0]])
    proper = bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine))) > 0
    require(proper, f"{name}: affine", affine.tolist(), "a finite matrix that can be inverted")
    return affine
