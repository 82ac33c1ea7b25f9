"""Radiographs from files: PNG, TIFF and JPEG of any depth, and DICOM (CR, DX, XA and the like).

Needs ``pillow``, and ``pydicom`` for DICOM (``pip install "diffax[data,medical]"``). Nothing that
identifies a patient is read.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from diffax.checks import require, require_one_of
from diffax.data.decode import decode_image
from diffax.data.dicom import is_dicom, one_line, read_tags
from diffax.data.optional import optional_import
from diffax.data.ranges import ValueRange

_MODALITIES = ("CR", "DX", "IO", "MG", "OT", "PX", "RF", "RG", "XA")
_PERCENTILES = (0.5, 99.5)
_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PhotometricInterpretation", "PixelData", "FloatPixelData"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "Modality"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("PixelSpacing", "ImagerPixelSpacing"),
)


class Radiograph(NamedTuple):
    """A radiograph as it is displayed, and what was done to the file's values for it.

    Attributes:
      image: in [0, 1].
      spacing: between rows and between columns, in mm; None where the file does not say. DICOM's
        ``PixelSpacing``, else ``ImagerPixelSpacing`` (on the detector).
      window: the values that became 0 and 1 (before ``inverted``); None where a table maps them.
      how: where the window came from: "given", "type" (all that 8 bit can hold), "file" (DICOM's VOI),
        or "percentiles" (of the image, 0.5 and 99.5).
      inverted: whether low values are shown bright: DICOM's MONOCHROME1, or asked for.
    """

    image: Float32[np.ndarray, "rows columns"]
    spacing: tuple[float, float] | None
    window: tuple[float, float] | None
    how: str
    inverted: bool


def read_radiograph(
    path: str | Path, window: ValueRange | None = None, *, invert: bool = False
) -> Radiograph:
    """One radiograph, grey in [0, 1], as it is meant to be looked at: bone bright.

    A picture is taken to show bone bright, and a DICOM file to be right about it (MONOCHROME1 or 2);
    ``invert`` turns either round. ``window=(low, high)`` are the values shown as 0 and 1, in the file's own
    units (of DICOM after its modality rescale, as viewers give them). Without it 8 bit are shown whole,
    DICOM by its first VOI window or table, and what is deeper and has none by percentiles.

    Raises ``ValueError`` naming the file for one that cannot be read, colours, several frames, transparent,
    constant or non-finite pixels, and DICOM that is no radiograph.
    """
    name = str(path)
    require(Path(path).is_file(), "radiograph", name, "an existing PNG, TIFF, JPEG or DICOM file")
    bounds = None if window is None else _check_window(window)
    if is_dicom(Path(path)):
        return _from_dicom(Path(path), bounds, invert)
    pixels, deep = _from_picture(Path(path))
    how = "given" if bounds else "percentiles" if deep else "type"
    bounds = bounds or (_percentiles(pixels) if deep else (0.0, 255.0))
    return Radiograph(_oriented(_between(pixels, bounds), invert), None, bounds, how, invert)


def fit_square(image: Float[np.ndarray, "rows columns"], size: int) -> Float32[np.ndarray, "size size"]:
    """Pad a radiograph in [0, 1] to a square with 0 (no bone), centred, and resize it, antialiased.

    By Pillow, whose bilinear filter does not overshoot; JAX would compile for every new size of a file.
    """
    require(size >= 1, "size", size, "at least 1")
    rows, columns = image.shape
    side, (top, left) = max(rows, columns), _corner(rows, columns)
    square = np.zeros((side, side), np.float32)
    square[top : top + rows, left : left + columns] = image
    return _resized(square, size)


def undo_square(
    square: Float[np.ndarray, "size size"], shape: tuple[int, int]
) -> Float32[np.ndarray, "rows columns"]:
    """A square as :func:`fit_square` makes it, brought back to the shape of its source."""
    rows, columns = shape
    top, left = _corner(rows, columns)
    return _resized(np.asarray(square, np.float32), max(shape))[top : top + rows, left : left + columns]


def _corner(rows: int, columns: int) -> tuple[int, int]:
    side = max(rows, columns)
    return (side - rows) // 2, (side - columns) // 2


def _resized(square: Float32[np.ndarray, "n n"], size: int) -> Float32[np.ndarray, "m m"]:
    pil = optional_import("PIL.Image")
    resized = pil.fromarray(square).resize((size, size), pil.Resampling.BILINEAR)
    return np.clip(np.asarray(resized, np.float32), 0, 1)


def _from_picture(path: Path) -> tuple[Float[np.ndarray, "rows columns"], bool]:
    """Grey values, and whether they are deeper than 8 bit."""
    pixels = decode_image(path, str(path))
    grey = _check_pixels(str(path), pixels[..., 0].astype(np.float32))
    apart = int(np.ptp(pixels, axis=-1).max())
    require(apart == 0, f"{path}: colours", f"channels up to {apart} apart", "grey, or RGB of equal channels")
    return grey, pixels.dtype != np.uint8


def _from_dicom(path: Path, window: tuple[float, float] | None, invert: bool) -> Radiograph:
    data, name = read_tags(path, _TAGS, pixels=True), str(path)
    _check_header(name, data)
    values = _check_pixels(name, _values(name, data))
    inverted = (data.PhotometricInterpretation == "MONOCHROME1") != invert
    if window is None and _has_voi(data):
        shown, window, how = _by_voi(name, data, values), _stated(data), "file"
    else:
        how = "given" if window else "percentiles"
        window = window or _percentiles(values)
        shown = _between(values, window)
    return Radiograph(_oriented(shown, inverted), _spacing(name, data), window, how, inverted)


def _check_header(name: str, data: Any) -> None:
    require_one_of(f"{name}: Modality", data.get("Modality", "OT"), _MODALITIES)
    frames = int(data.get("NumberOfFrames") or 1)
    require(frames == 1, f"{name}: NumberOfFrames", frames, "a single frame")
    kind = data.get("PhotometricInterpretation")
    require(kind in ("MONOCHROME1", "MONOCHROME2"), f"{name}: PhotometricInterpretation", kind,
            "MONOCHROME1 or MONOCHROME2")  # fmt: skip


def _values(name: str, data: Any) -> Float[np.ndarray, "rows columns"]:
    """Pixels in the units that the file states."""
    apply = optional_import("pydicom.pixels", "medical").apply_modality_lut
    try:
        return np.asarray(apply(data.pixel_array, data), np.float64)
    except Exception as error:  # decoders and absent plugins raise many kinds
        raise ValueError(f"{name}: got {one_line(error)}, allowed: pixels that pydicom can decode") from error


def _has_voi(data: Any) -> bool:
    return bool(data.get("VOILUTSequence")) or (
        data.get("WindowCenter") is not None and data.get("WindowWidth") is not None
    )


def _by_voi(
    name: str, data: Any, values: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """The file's own window, else its table, to [0, 1].

    pydicom's output has a range that depends on much else; two pixels beyond all others tell what it is.
    """
    apply = optional_import("pydicom.pixels", "medical").apply_voi_lut
    ends = np.array([-1e6, 1e6])
    if _stated(data) is None:  # a table takes whole numbers, and pydicom wraps those that are beyond it
        entries, first, bits = (int(v) for v in data.VOILUTSequence[0].LUTDescriptor)
        allowed = "at most 256 entries of 8 bits"
        require(bits > 8 or 0 < entries <= 256, f"{name}: VOI table", f"{entries} of {bits} bits", allowed)
        ends = np.array([first, first + (entries or 2**16) - 1])
        values = np.clip(np.rint(values).astype(np.int64), *ends)
    try:
        with np.errstate(over="ignore"):  # of a sigmoid's exponential, where it ends in 0
            shown = np.asarray(apply(np.append(values, ends), data, prefer_lut=False), np.float64)
    except Exception as error:
        raise ValueError(f"{name}: got {one_line(error)}, allowed: a VOI window or table") from error
    low, high = (float(v) for v in shown[-2:])
    require(low != high, f"{name}: VOI window", (low, high), "one that tells values apart")
    return np.clip((shown[:-2].reshape(values.shape) - low) / (high - low), 0, 1)


def _stated(data: Any) -> tuple[float, float] | None:
    """The first window of the file, as (low, high); None where it has a table only."""
    if data.get("WindowCenter") is None or data.get("WindowWidth") is None:
        return None
    centre, width = (float(np.ravel(data[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth"))
    if str(data.get("VOILUTFunction", "LINEAR")).upper() == "LINEAR":  # by the standard's definition
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _spacing(name: str, data: Any) -> tuple[float, float] | None:
    found = data.get("PixelSpacing") or data.get("ImagerPixelSpacing")
    if not found:
        return None
    down, across = (float(v) for v in found)
    require(min(down, across) > 0, f"{name}: pixel spacing", (down, across), "above 0 mm")
    return down, across


def _check_window(window: ValueRange) -> tuple[float, float]:
    low, high = (float(v) for v in window)
    require(bool(np.isfinite([low, high]).all()) and low < high, "window", (low, high), "low < high, finite")
    return low, high


def _check_pixels(name: str, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "rows columns"]:
    require(values.ndim == 2 and values.size > 0, f"{name}: shape", values.shape, "(rows, columns)")
    require(bool(np.isfinite(values).all()), f"{name}: pixels", "nan or inf", "finite values")
    least, most = float(values.min()), float(values.max())
    require(least < most, f"{name}: pixels", f"{least:g} everywhere", "an image that is not constant")
    return values


def _percentiles(values: Float[np.ndarray, "rows columns"]) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def _between(
    values: Float[np.ndarray, "rows columns"], window: tuple[float, float]
) -> Float[np.ndarray, "rows columns"]:
    low, high = window
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)


def _oriented(
    shown: Float[np.ndarray, "rows columns"], inverted: bool
) -> Float32[np.ndarray, "rows columns"]:
    return np.asarray(1 - shown if inverted else shown, np.float32)
