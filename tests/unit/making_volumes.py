"""Volumes that the tests make: NIfTI files and DICOM series, filled by place in the patient.

The function is evaluated at the places that the *stored* axes give; readers choose their own axes.
"""

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SECRET = "Doe^Secret"


def places(affine, shape):
    index = np.stack(np.indices(shape), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def hounsfield(world):
    """Any function that tells places apart; linear, so that means and blends are known too."""
    return world @ [3.0, 5.0, -7.0] + 40


def rotation(x, y, z):
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_x @ about_y @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])


LINEAR = {
    "RAS": np.diag([1.0, 2.0, 3.0]),
    "LPS": np.diag([-1.0, -2.0, 3.0]),
    "PIR": np.array([[0, 0, 1.5], [-1.0, 0, 0], [0, -2.0, 0]]),
    "SLA": np.array([[0, -2.0, 0], [0, 0, 1.5], [1.0, 0, 0]]),
    "oblique": rotation(0.3, -0.2, 0.25) @ np.diag([-1.0, 2.0, -1.5]),
}


def affine_of(name):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = LINEAR[name], [11.0, -7.0, 23.0]
    return affine


def write_nifti(path, affine, shape=(5, 6, 7), function=hounsfield, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(function(places(affine, shape)).astype(dtype), affine), path)
    return path


def ct_slice(k, *, series="1.2.3", affine=None, shape=(4, 5), spacing=(0.8, 0.6), step=2.5, slope=1.0):
    """Slice k of a series on oblique axes, filled by place; stored as integers of 0.25 slope HU."""
    turn = rotation(0.2, -0.15, 0.3) if affine is None else affine
    row, column = turn[:, 0], turn[:, 1]
    origin = np.array([-20.0, -30.0, 10.0]) + k * step * np.cross(row, column)
    j, i = np.indices(shape)
    lps = origin + row * i[..., None] * spacing[1] + column * j[..., None] * spacing[0]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    data.SeriesInstanceUID, data.Modality, data.PatientName = series, "CT", SECRET
    data.PatientID, data.InstanceNumber = SECRET, int(7 * k) % 11  # neither names nor numbers are in order
    data.ImagePositionPatient = [f"{v:.10g}" for v in origin]
    data.ImageOrientationPatient = [f"{v:.10g}" for v in (*row, *column)]
    data.PixelSpacing = list(spacing)
    data.Rows, data.Columns, data.SamplesPerPixel = *shape, 1
    data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored = "MONOCHROME2", 16, 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 0.25 * slope, -1024
    values = hounsfield(lps * [-1, -1, 1])  # the function is of RAS
    data.PixelData = np.round((values + 1024) / (0.25 * slope)).astype("<i2").tobytes()
    return data


def write_series(folder, slices, order=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(order or range(len(slices)), slices, strict=True):
        data.save_as(folder / f"{name:03d}.dcm", enforce_file_format=True)
    return folder
