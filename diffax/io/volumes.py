"""Volumes to files: NIfTI and DICOM series with the geometry of what they came from, and checks of it.

Needs ``nibabel`` and ``pydicom`` (``pip install "diffax[medical]"``). A series derived from another is put
into the same study: what identifies the patient goes from file to file, and into no result, error or log.
"""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int16

from diffax.checks import require, require_one_of
from diffax.data.dicom import stored_slices
from diffax.data.optional import optional_import
from diffax.data.slices import read_volume
from diffax.data.volume import Geometry, Volume, spacing_of
from diffax.io.files import new_folder, write_bytes

__all__ = [
    "read_volume",
    "require_square_pixels",
    "require_straight",
    "tilt_of",
    "write_dicom",
    "write_nifti",
]

_PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
_LPS = np.array([-1.0, -1.0, 1.0])  # DICOM's axes run to the left and to the back
_LEVELS = 65000  # of the 65536 that int16 has: the rest is room for rounding the slope in the file
_MOST_TILT = 0.05  # degrees: positions are rounded in files, gantries are tilted by whole degrees

# What places a derived series in the study and the frame of its source, and says who lies there.
_COPIED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate"),
    *("PatientSex", "PatientAge", "PatientWeight", "PatientSize", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    *("PatientPosition", "BodyPartExamined", "Modality"),
)
_REQUIRED = {  # by the standard, though their values are not known
    **dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientPosition")),
    **dict.fromkeys(("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")),
    "PositionReferenceIndicator": None,
}
_REQUIRED_OF: dict[str, dict[str, str | None]] = {  # of the acquisition
    "CT": {"KVP": None, "AcquisitionNumber": None},
    "MR": {
        "ScanningSequence": "RM",  # research mode
        "SequenceVariant": "NONE",
        "ScanOptions": None,
        "MRAcquisitionType": None,
        "RepetitionTime": None,
        "EchoTime": None,
        "EchoTrainLength": None,
    },
}


def write_nifti(path: str | Path, volume: Volume, *, description: str = "") -> None:
    """Write a volume as ``.nii`` or ``.nii.gz``: float32, millimetres, equal volumes to equal bytes.

    The affine goes into ``sform`` and, unless the axes are sheared, which it cannot hold, into ``qform``,
    both with code 1 (scanner). ``description`` is the header's tag for where the volume came from.
    The file is made whole under another name, then renamed. Raises ``ValueError`` for another suffix, a
    description over 79 bytes of UTF-8, and voxels or an affine that are not finite.
    """
    nibabel, name = optional_import("nibabel", "medical"), Path(path).name.lower()
    require(name.endswith((".nii", ".nii.gz")), "path", str(path), "a name that ends in .nii or .nii.gz")
    tag = description.encode()
    require(len(tag) <= 79, "description", description, "at most 79 bytes of UTF-8")
    _require_finite(volume)
    image = nibabel.Nifti1Image(volume.array.astype(np.float32, copy=False), volume.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = tag
    image.set_sform(volume.affine, code=1)
    straight = tilt_of(volume) <= _MOST_TILT
    image.set_qform(volume.affine if straight else None, code=1 if straight else 0)
    content = image.to_bytes()
    write_bytes(path, gzip.compress(content, 6, mtime=0) if name.endswith(".gz") else content)


def write_dicom(
    folder: str | Path,
    volume: Volume,
    *,
    description: str,
    derivation: str | None = None,
    template: str | Path | None = None,
    series: str | None = None,
    modality: str | None = None,
    series_number: int = 9000,
) -> str:
    r"""Write a volume as a derived DICOM series, one CT or MR Image Storage file per slice.

    Args:
      folder: a new or an empty folder for the files ``0001.dcm``, ... in order of place.
      volume: its axes must be at right angles; oblique ones stay oblique.
      description: ``SeriesDescription``, at most 64 characters of ASCII.
      derivation: ``DerivationDescription``, how the volume was made; None repeats the description.
      template: the DICOM series (folder or file) that the volume was made from. Patient, study and frame
        of reference are copied, and slices, rows and columns run along its axes. None makes a new study
        of nobody, with axial slices, rows to the left and columns to the back of the patient.
      series: ``SeriesInstanceUID`` of the template where its folder holds several.
      modality: "CT" or "MR"; None takes the template's.
      series_number: ``SeriesNumber`` among those of the study.

    The position and spacing are the volume's own, also where the template has others. Voxels are stored as
    int16, ``value = slope stored + intercept``: CT with slope 1 (HU) where the values fit and span at least
    100 HU, else (and MR) such that their range is 65000 slopes wide (an error of 1e-5 of the range).
    ``ImageType`` is DERIVED, SECONDARY; the UIDs of series and files are new. The folder appears whole or
    not at all. Returns the new ``SeriesInstanceUID``. Raises ``ValueError`` for a folder in use, sheared
    axes, voxels that are not finite, other modalities, long descriptions, and a template that cannot be read.
    """
    target = Path(folder)
    free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    require(free, "folder", str(folder), "one that does not exist yet, or is empty")
    for name, text, most in (("description", description, 64), ("derivation", derivation or "", 1024)):
        plain = text.isascii() and text.isprintable() and "\\" not in text
        allowed = f"at most {most} characters of ASCII in one line, no backslash"
        require(plain and len(text) <= most, name, text, allowed)
    _require_finite(volume)
    require_straight(volume, "volume")
    common, axes = _common(template, series, modality)
    common.SeriesDescription, common.DerivationDescription = description, derivation or description
    common.SeriesNumber = series_number
    turned = _turned(volume, axes)
    stored = _quantise(turned.array, common)
    _describe(common, turned)
    _write_folder(target, common, stored, turned.affine)
    return str(common.SeriesInstanceUID)


def tilt_of(volume: Volume | Geometry) -> float:
    """The largest angle between one axis and the normal of the plane of the others, in degrees.

    0 for axes at right angles. For a series scanned with a tilted gantry it is the tilt: the angle between
    the step from slice to slice and the normal of the slices.
    """
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    normals = np.stack([np.cross(axes[:, i - 2], axes[:, i - 1]) for i in range(3)], 1)
    across = np.linalg.norm(np.cross(axes, normals, axis=0), axis=0)
    return float(np.degrees(np.arctan2(across, np.abs((axes * normals).sum(0)))).max())


def require_straight(volume: Volume | Geometry, name: str, *, most: float = _MOST_TILT) -> None:
    """Raise ``ValueError`` where axes are not at right angles, e.g. by gantry tilt; ``most`` is in degrees.

    Slices of such a volume do not lie above each other: projections of it, and differences from slice to
    slice, are not what they seem.
    """
    tilt = tilt_of(volume)
    allowed = f"at most {most:g} degrees: slices are shifted (gantry tilt); resample to straight axes first"
    require(tilt <= most, f"{name}: angle between step and normal of slices", f"{tilt:.2f} degrees", allowed)


def require_square_pixels(volume: Volume | Geometry, name: str, *, axis: str = "axial") -> None:
    """Raise ``ValueError`` unless the pixels of slices along ``axis`` are square to 0.1 %.

    Parallel-beam operators count in pixels: they need equal steps along rows and columns.
    """
    require_one_of("axis", axis, _PLANES)
    first, second = (spacing_of(volume.affine)[i] for i in _PLANES[axis])
    square = abs(first - second) <= 1e-3 * max(first, second)
    found = f"{first:.4f} x {second:.4f} mm"
    require(square, f"{name}: pixels of {axis} slices", found, "square pixels; resample first")


def _require_finite(volume: Volume) -> None:
    require(volume.array.size > 0, "volume: shape", volume.array.shape, "at least one voxel")
    require(bool(np.isfinite(volume.array).all()), "volume: voxels", "nan or inf", "finite values")
    proper = bool(np.isfinite(volume.affine).all()) and abs(float(np.linalg.det(volume.affine))) > 0
    require(proper, "volume: affine", volume.affine.tolist(), "a finite matrix that can be inverted")


def _common(
    template: str | Path | None, series: str | None, modality: str | None
) -> tuple[Any, Float64[np.ndarray, "4 4"]]:
    """What all files share of patient, study and kind, and an affine with the axes to write along."""
    uid = optional_import("pydicom.uid", "medical")
    data = optional_import("pydicom.dataset", "medical").Dataset()
    axes, source = np.diag([-1.0, -1.0, 1.0, 1.0]), data
    if template is None:
        data.PatientName = data.PatientID = "ANONYMOUS"
    else:
        files, (_, axes) = stored_slices(template, series=series)
        source = _source(files[0])
    found = modality or source.get("Modality")
    require_one_of("modality", found, _REQUIRED_OF)
    for name in _COPIED + tuple(_REQUIRED_OF[found]):
        if name in source:
            data[name] = source[name]
    fresh = {"StudyInstanceUID": uid.generate_uid(), "FrameOfReferenceUID": uid.generate_uid()}
    for name, value in {**_REQUIRED, **_REQUIRED_OF[found], **fresh}.items():
        if not data.get(name):
            setattr(data, name, value)
    data.Modality, data.SeriesInstanceUID = found, uid.generate_uid()
    data.SOPClassUID = uid.CTImageStorage if found == "CT" else uid.MRImageStorage
    return data, axes


def _source(file: Path) -> Any:
    tags = [*_COPIED, *_REQUIRED_OF["CT"], *_REQUIRED_OF["MR"]]
    pydicom = optional_import("pydicom", "medical")
    return pydicom.dcmread(file, specific_tags=tags, stop_before_pixels=True)


def _turned(volume: Volume, like: Float64[np.ndarray, "4 4"]) -> Volume:
    """The volume with its axes permuted and flipped to run as nearly as can be along those of ``like``."""
    tools = optional_import("nibabel.orientations", "medical")
    change = tools.ornt_transform(tools.io_orientation(volume.affine), tools.io_orientation(like))
    array = np.ascontiguousarray(tools.apply_orientation(volume.array, change), np.float32)
    return Volume(array, volume.affine @ tools.inv_ornt_aff(change, volume.array.shape))


def _quantise(array: Float32[np.ndarray, "x y z"], data: Any) -> Int16[np.ndarray, "x y z"]:
    """Stored values, and slope and intercept as the file will hold them: decimals of 16 characters."""
    low, high = float(array.min()), float(array.max())
    slope, intercept = (high - low) / _LEVELS, (high + low) / 2
    if data.Modality == "CT" and low >= -32768 and high <= 32767 and high - low >= 100:
        slope, intercept = 1.0, 0.0
    data.RescaleSlope, data.RescaleIntercept = _decimal(slope or 1.0), _decimal(intercept)
    data.RescaleType = "HU" if data.Modality == "CT" else "US"
    stored = np.empty(array.shape, np.int16)
    for k in range(array.shape[2]):  # in double precision, without a volume of it
        exact = (array[:, :, k] - np.float64(data.RescaleIntercept)) / np.float64(data.RescaleSlope)
        stored[:, :, k] = np.rint(exact)
    return stored


def _decimal(value: float) -> Any:
    """A decimal string as DICOM stores it: it and the number it stands for are the same afterwards."""
    valuerep = optional_import("pydicom.valuerep", "medical")
    return valuerep.DSfloat(float(valuerep.format_number_as_ds(float(value))), auto_format=True)


def _describe(data: Any, turned: Volume) -> None:
    """Size, spacing and direction of the slices, and what kind of image they are."""
    columns, rows, _ = turned.array.shape
    across, down, step = turned.spacing
    directions = turned.affine[:3, :3] * _LPS[:, None] / turned.spacing
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if data.Modality == "CT" else "OTHER"]
    data.ImageOrientationPatient = [_decimal(v) for v in directions[:, :2].T.ravel()]
    data.PixelSpacing = [_decimal(down), _decimal(across)]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(step)
    data.Rows, data.Columns, data.SamplesPerPixel = rows, columns, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.Manufacturer, data.LossyImageCompression = "diffax", "00"


def _write_folder(
    target: Path, common: Any, stored: Int16[np.ndarray, "x y z"], affine: Float64[np.ndarray, "4 4"]
) -> None:
    with new_folder(target) as folder:
        for k in range(stored.shape[2]):
            place = (affine @ [0, 0, k, 1])[:3] * _LPS
            _write_slice(folder / f"{k + 1:04d}.dcm", common, k, place, stored[:, :, k].T)


def _write_slice(
    path: Path,
    common: Any,
    k: int,
    place: Float64[np.ndarray, "3"],
    pixels: Int16[np.ndarray, "rows columns"],
) -> None:
    uid, dataset = optional_import("pydicom.uid", "medical"), optional_import("pydicom.dataset")
    data = dataset.Dataset(common)
    row, column = np.reshape(np.asarray(data.ImageOrientationPatient, np.float64), (2, 3))
    data.ImagePositionPatient = [_decimal(v) for v in place]
    data.SliceLocation = _decimal(float(place @ np.cross(row, column)))
    data.InstanceNumber, data.SOPInstanceUID = k + 1, uid.generate_uid()
    data.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    data.file_meta = dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    with path.open("wb") as file:
        data.save_as(file, enforce_file_format=True)
        file.flush()
        os.fsync(file.fileno())
