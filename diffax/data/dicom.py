"""DICOM series of single-frame slices as volumes, ordered by where the slices lie."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.data.volume import Geometry, Volume, canonical, canonical_geometry

# All that is read of a file: names and birth dates never come into memory.
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_HEADER = (*_PLACE, "SeriesInstanceUID", "Modality", "NumberOfFrames", "SamplesPerPixel", "SliceThickness")
_PIXELS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PhotometricInterpretation", "PixelData", "FloatPixelData"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "Modality"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_TOLERANCE = 0.05  # of the step between slices: positions are rounded in files, a lost slice is 1.0


def is_dicom(path: Path) -> bool:
    """True for a DICOM file by its first bytes, if the name could be one's (a directory of them is none)."""
    suffix = path.suffix.lower()
    plausible = suffix in ("", ".dcm", ".ima", ".dicom") or suffix[1:].isdigit()
    if not plausible or path.name == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or suffix == ".dcm"


def read_dicom(path: str | Path, *, series: str | None = None) -> Volume:
    """Read the slices of one series: the files directly in a folder, or a single file.

    Slices are ordered by their position along the normal of the image plane; stored values become HU (or
    what the file states) by ``RescaleSlope`` and ``RescaleIntercept`` or the modality's table. ``series``
    is the ``SeriesInstanceUID`` to take where the folder holds several.

    Raises ``ValueError`` naming the folder or file: several series and none chosen (listed), missing
    geometry, slices that differ in size, spacing or orientation, two at one place, a gap (missing slices),
    multi-frame or colour files, CT without rescaling, pixels that cannot be decoded.
    """
    files, shape, affine = _layout(Path(path), series)
    array = np.empty(shape, np.float32)
    for k, file in enumerate(files):
        pixels = _pixels(file)
        require(
            pixels.shape == shape[1::-1], f"{file}: pixels", pixels.shape, f"{shape[1::-1]} (rows, columns)"
        )
        array[:, :, k] = pixels.T
    require(bool(np.isfinite(array).all()), f"{path}: voxels", "nan or inf", "finite values")
    return canonical(array, affine)


def dicom_geometry(path: str | Path, *, series: str | None = None) -> Geometry:
    """What :func:`read_dicom` will give, from the headers alone."""
    _, shape, affine = _layout(Path(path), series)
    return canonical_geometry(shape, affine)


def stored_slices(path: str | Path, *, series: str | None = None) -> tuple[list[Path], Geometry]:
    """The files of a series in order of place, and shape and affine on its *own* axes, from the headers.

    The axes are (columns, rows, slices), not those of :class:`Volume`; places are in RAS+ millimetres.
    Slices advance along the cross product of the row and the column direction. Raises as ``read_dicom``.
    """
    files, shape, affine = _layout(Path(path), series)
    return files, Geometry(shape, affine)


def _layout(
    path: Path, series: str | None
) -> tuple[list[Path], tuple[int, int, int], Float64[np.ndarray, "4 4"]]:
    """Files in order, the shape (columns, rows, slices), and the affine of these axes."""
    headers = _choose(str(path), _headers(path), series)
    for file, header in headers:
        _check_header(str(file), header)
    first = headers[0][1]
    _check_equal(headers)
    row, column = np.reshape(np.asarray(first.ImageOrientationPatient, np.float64), (2, 3))
    unit = bool(np.abs([row @ row - 1, column @ column - 1, row @ column]).max() < 1e-3)
    require(
        unit,
        f"{headers[0][0]}: ImageOrientationPatient",
        [*row.tolist(), *column.tolist()],
        "two orthogonal unit vectors",
    )
    normal = np.cross(row, column)
    places = np.array([header.ImagePositionPatient for _, header in headers], np.float64)
    order = np.argsort(places @ normal, kind="stable")
    files = [headers[i][0] for i in order]
    step = _step(str(path), files, places[order], normal, first)
    down, across = (float(v) for v in first.PixelSpacing)  # between rows, between columns
    affine = np.eye(4)
    affine[:3] = np.stack([row * across, column * down, step, places[order[0]]], axis=1)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes run to the left and to the back
    return files, (int(first.Columns), int(first.Rows), len(files)), to_ras @ affine


def _headers(path: Path) -> list[tuple[Path, Any]]:
    require(path.exists(), "path", str(path), "a folder of DICOM files, or one")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if is_dicom(file))
    require(len(files) > 0, f"DICOM files in {path}", 0, "at least one")
    return [(file, read_tags(file, _HEADER, pixels=False)) for file in files]


def read_tags(file: Path, tags: Sequence[str], pixels: bool) -> Any:
    """The named tags of a file and no others; with ``pixels`` also what comes after them."""
    pydicom = optional_import("pydicom", "medical")
    try:
        data = pydicom.dcmread(file, specific_tags=list(tags), stop_before_pixels=not pixels)
        list(data)  # values are decoded now, not where they are used: broken ones are found here
    except Exception as error:
        raise ValueError(f"{file}: got {one_line(error)}, allowed: a whole DICOM file") from error
    return data


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())


def _choose(name: str, headers: list[tuple[Path, Any]], series: str | None) -> list[tuple[Path, Any]]:
    """The slices of one series."""
    groups: dict[str, list[tuple[Path, Any]]] = {}
    for file, header in headers:
        uid = str(header.get("SeriesInstanceUID", ""))
        require(uid != "", f"{file}: SeriesInstanceUID", None, "one per file")
        groups.setdefault(uid, []).append((file, header))
    found = ", ".join(f"{uid} ({len(group)} files)" for uid, group in sorted(groups.items()))
    if series is None:
        allowed = f"one series, or series= one of: {found}"
        require(len(groups) == 1, f"{name}: number of series", len(groups), allowed)
        return next(iter(groups.values()))
    require(series in groups, f"{name}: series", series, f"one of: {found}")
    return groups[series]


def _check_header(name: str, header: Any) -> None:
    frames = int(header.get("NumberOfFrames") or 1)
    allowed = "single-frame files (convert multi-frame ones to NIfTI first, e.g. with dcm2niix)"
    require(frames == 1, f"{name}: NumberOfFrames", frames, allowed)
    samples = int(header.get("SamplesPerPixel") or 1)
    require(samples == 1, f"{name}: SamplesPerPixel", samples, "1: grey values, not colours")
    lengths = dict(zip(_PLACE, (3, 6, 2, None, None), strict=True))
    for tag, length in lengths.items():
        value = header.get(tag)
        require(value is not None, f"{name}: {tag}", None, "present: without it the slice has no place")
        numbers = _numbers(value)
        valid = numbers.size == (length or 1) and bool(np.isfinite(numbers).all())
        require(valid, f"{name}: {tag}", str(value), f"{length or 1} finite number(s)")
    positive = bool(min(*map(float, header.PixelSpacing), header.Rows, header.Columns) > 0)
    require(positive, f"{name}: PixelSpacing", [float(v) for v in header.PixelSpacing], "positive, in mm")


def _numbers(value: Any) -> Float64[np.ndarray, "..."]:
    """Numbers of an element, or nan where it holds none: pydicom keeps text that it cannot convert."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return np.array(np.nan)


def _check_equal(headers: list[tuple[Path, Any]]) -> None:
    """Slices of one volume agree in size, spacing and orientation."""
    first, reference = headers[0]
    for tag, tolerance in (
        ("Rows", 0),
        ("Columns", 0),
        ("PixelSpacing", 1e-4),
        ("ImageOrientationPatient", 1e-4),
    ):
        expected = np.atleast_1d(np.asarray(reference.get(tag), np.float64))
        for file, header in headers:
            value = np.atleast_1d(np.asarray(header.get(tag), np.float64))
            equal = bool(np.abs(value - expected).max() <= tolerance)
            require(equal, f"{file}: {tag}", value.tolist(), f"{expected.tolist()}, as in {first}")


def _step(
    name: str,
    files: list[Path],
    places: Float64[np.ndarray, "n 3"],
    normal: Float64[np.ndarray, "3"],
    header: Any,
) -> Float64[np.ndarray, "3"]:
    """The vector from a slice to the next, in mm; all steps are checked to be this one."""
    if len(files) == 1:
        thickness = float(header.get("SliceThickness") or 0)
        require(thickness > 0, f"{files[0]}: SliceThickness", thickness, "above 0, for a single slice")
        return normal * thickness
    gaps = np.diff(places @ normal)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of two gaps the smaller: slices go missing
    for k, gap in enumerate(gaps.tolist()):
        pair = f"{files[k].name} and {files[k + 1].name}"
        require(gap > 1e-3, f"{name}: distance of {pair} in mm", round(gap, 4), "one slice per place")
        allowed = f"{usual:.4g} as between the others (missing or uneven slices)"
        even = abs(gap - usual) <= _TOLERANCE * usual
        require(even, f"{name}: distance of {pair} in mm", round(gap, 4), allowed)
    step = (places[-1] - places[0]) / (len(files) - 1)
    off = float(np.abs(places - places[0] - np.arange(len(files))[:, None] * step).max())
    allowed = f"at most {_TOLERANCE:g} of the step of {usual:.4g} mm"
    require(off <= _TOLERANCE * usual, f"{name}: slices off a line in mm", round(off, 4), allowed)
    return step


def _pixels(file: Path) -> np.ndarray:
    """The values of a slice, (rows, columns), in the units that the file states."""
    apply: Callable[..., np.ndarray] = optional_import("pydicom.pixels", "medical").apply_modality_lut
    data = read_tags(file, _PIXELS, pixels=True)
    kind = data.get("PhotometricInterpretation")
    require(kind == "MONOCHROME2", f"{file}: PhotometricInterpretation", kind, "MONOCHROME2")
    if data.get("Modality") == "CT":
        known = "ModalityLUTSequence" in data or {"RescaleSlope", "RescaleIntercept"} <= set(data.dir())
        require(
            known, f"{file}: RescaleSlope, RescaleIntercept", None, "present in CT: the values are not HU"
        )
    try:
        return np.asarray(apply(data.pixel_array, data), np.float32)
    except Exception as error:  # decoders and absent plugins raise many kinds
        raise ValueError(f"{file}: got {one_line(error)}, allowed: pixels that pydicom can decode") from error
