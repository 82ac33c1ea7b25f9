"""Readers of volumes: every voxel lies where it lay, and bad files and series are named."""

import os
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from making_volumes import (
    LINEAR,
    affine_of,
    ct_slice,
    hounsfield,
    places,
    write_nifti,
    write_series,
)

from diffax.data import dicom, open_source, read_dicom, read_nifti, read_volume, slice_stack

_REAL = Path(os.environ.get("DIFFAX_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "volumes"


# --- NIfTI


@pytest.mark.parametrize("name", LINEAR)
def test_nifti_voxels_lie_where_they_lay_on_axes_right_front_head(tmp_path, name):
    volume = read_nifti(write_nifti(tmp_path / "v.nii.gz", affine_of(name)))
    expected = hounsfield(places(volume.affine, volume.array.shape))
    np.testing.assert_allclose(volume.array, expected, rtol=1e-5, atol=1e-3)
    assert volume.array.dtype == np.float32
    assert (np.diag(volume.affine)[:3] > 0).all()
    assert (np.abs(volume.affine[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert sorted(volume.spacing) == pytest.approx(sorted(np.linalg.norm(LINEAR[name], axis=0)))


def test_nifti_scaling_and_unit_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1), affine_of("RAS"))
    image.header.set_slope_inter(0.5, -100)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "v.nii")
    volume = read_nifti(tmp_path / "v.nii")
    assert volume.spacing == (1e3, 2e3, 3e3)
    assert volume.array[0, 0, 1] - volume.array[0, 0, 0] == 0.5  # int16 0 1 in the file


def test_nifti_refuses_and_names(tmp_path):
    def check(message, name="v.nii.gz"):
        with pytest.raises(ValueError, match=message):
            read_nifti(tmp_path / name)

    good = write_nifti(tmp_path / "v.nii.gz", affine_of("RAS")).read_bytes()
    (tmp_path / "v.nii.gz").write_bytes(good[:200])
    check(r"v.nii.gz: got .*allowed: a (whole )?NIfTI file")
    (tmp_path / "v.nii").write_bytes(b"nonsense")
    check(r"v.nii: got .*allowed: a NIfTI file", "v.nii")
    check("path: got .*absent.nii', allowed: an existing", "absent.nii")
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), None)
    nibabel.save(image, tmp_path / "v.nii.gz")
    check(r"v.nii.gz: sform_code, qform_code: got \[0, 0\], allowed: .*where the voxels lie")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    check(r"shape: got \(2, 3, 4, 5\), allowed: three axes")
    write_nifti(tmp_path / "v.nii.gz", affine_of("RAS"), function=lambda w: np.full(w.shape[:3], np.nan))
    check("voxels: got 'nan or inf'")


# --- DICOM


@pytest.mark.parametrize("name", ["oblique", "coronal", "feet first"])
def test_ct_slices_are_ordered_by_place_and_rescaled(tmp_path, name):
    turns = {
        "oblique": None,
        "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
        "feet first": np.diag([-1.0, 1.0, -1.0]),
    }
    slices = [ct_slice(k, affine=turns[name], slope=1 + k % 2) for k in range(6)]
    folder = write_series(tmp_path / "ct", slices, order=[4, 0, 5, 2, 1, 3])
    (folder / "notes.txt").write_text("not a slice")
    volume = read_dicom(folder)
    assert sorted(volume.array.shape) == [4, 5, 6]
    assert sorted(volume.spacing) == pytest.approx([0.6, 0.8, 2.5])
    np.testing.assert_allclose(volume.array, hounsfield(places(volume.affine, volume.array.shape)), atol=0.26)
    assert (np.abs(volume.affine[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert (np.diag(volume.affine)[:3] > 0).all()
    one = read_volume(write_series(tmp_path / "one", [_thick(ct_slice(2, affine=turns[name]))]) / "000.dcm")
    np.testing.assert_allclose(one.array, hounsfield(places(one.affine, one.array.shape)), atol=0.13)


def _thick(data):
    data.SliceThickness = 2.5
    return data


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path):
    folder = write_series(
        tmp_path, [*map(ct_slice, range(4)), *(ct_slice(k, series="4.5.6") for k in range(3))]
    )
    with pytest.raises(ValueError, match=r"number of series: got 2, .* 1\.2\.3 \(4 files\), 4\.5\.6 \(3"):
        read_dicom(folder)
    with pytest.raises(ValueError, match=r"series: got '7', allowed: one of: 1\.2\.3"):
        read_dicom(folder, series="7")
    assert 3 in read_dicom(folder, series="4.5.6").array.shape
    assert len(open_source(folder, "all", value_range=(-1, 1), series="4.5.6")) == 3


def _without(tag):
    def change(slices):
        del slices[2][tag]

    return change


def _with(tag, value):
    return lambda slices: setattr(slices[2], tag, value)


def _replaced(*new):
    def change(slices):
        slices[2:3] = list(new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replaced(), r"distance of 001.dcm and 002.dcm in mm: got 5.0, allowed: 2.5 as .*missing"),
        (
            _replaced(ct_slice(2), ct_slice(2)),
            r"distance of 002.dcm and 003.dcm in mm: got 0.0, allowed: one slice",
        ),
        (_replaced(ct_slice(2.3)), r"in mm: got 3.25, allowed: 2.5 as"),
        (_without("ImagePositionPatient"), "002.dcm: ImagePositionPatient: got None, allowed: present"),
        (_without("PixelSpacing"), "002.dcm: PixelSpacing: got None"),
        (_without("SeriesInstanceUID"), "002.dcm: SeriesInstanceUID: got None"),
        (_without("RescaleSlope"), "002.dcm: RescaleSlope, RescaleIntercept: got None, .*not HU"),
        (_without("PixelData"), "002.dcm: got .*allowed: pixels that pydicom can decode"),
        (
            _with("PixelSpacing", [0.8, 0.7]),
            r"002.dcm: PixelSpacing: got \[0.8, 0.7\], allowed: \[0.8, 0.6\]",
        ),
        (_with("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), "002.dcm: ImageOrientationPatient"),
        (_with("ImagePositionPatient", [1, 2]), "002.dcm: ImagePositionPatient: got .*allowed: 3 finite"),
        (_with("NumberOfFrames", 5), "002.dcm: NumberOfFrames: got 5, allowed: single-frame .*dcm2niix"),
        (_with("PhotometricInterpretation", "MONOCHROME1"), "PhotometricInterpretation: got 'MONOCHROME1'"),
        (_with("SamplesPerPixel", 3), "SamplesPerPixel: got 3"),
        (_with("PixelData", bytes(10)), "002.dcm: got .*allowed: pixels that pydicom can decode"),
        (
            _replaced(ct_slice(2, shape=(4, 6))),
            r"002.dcm: Columns: got \[6.0\], allowed: \[5.0\], as in .*000",
        ),
    ],
)
def test_dicom_refuses_and_names_without_the_patient(tmp_path, change, message):
    slices = [ct_slice(k) for k in range(6)]
    change(slices)
    with pytest.raises(ValueError, match=message) as error:
        read_dicom(write_series(tmp_path, slices))
    assert "Secret" not in str(error.value)


def test_who_the_patient_is_does_not_come_into_memory(tmp_path):
    folder = write_series(tmp_path, [ct_slice(0)])
    for tags, pixels in ((dicom._HEADER, False), (dicom._PIXELS, True)):
        header = dicom.read_tags(folder / "000.dcm", tags, pixels=pixels)
        assert "Rows" in header
        assert not {"PatientName", "PatientID"} & set(header.dir())


def test_files_that_are_no_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"a\.dcm: got .*allowed: a whole DICOM file"):
        read_dicom(tmp_path)
    (tmp_path / "a.dcm").unlink()
    with pytest.raises(ValueError, match=r"DICOM files in .*: got 0"):
        read_dicom(tmp_path)


# --- real files


def _real(name):
    if not (_REAL / name).exists():
        pytest.skip(f"no {name} in {_REAL}: set DIFFAX_DATA")
    return _REAL / name


def test_real_ct():
    path = _real("ct_abdomen_ts/ct.nii.gz")
    volume = read_nifti(path)
    assert volume.array.shape == (122, 101, 112)
    assert volume.spacing == pytest.approx((3, 3, 3), abs=1e-4)
    soft = volume.array[(volume.array > -500) & (volume.array < 300)]
    assert -1100 < np.percentile(volume.array, 2) < -950  # air
    assert -120 < np.median(soft) < 80  # fat and muscle
    axial = open_source(path, "all", value_range=(-160, 240), size=64)
    bone = np.stack([axial[i]["image"][..., 0] for i in range(len(axial))]) > 0.99
    assert bone[:, 32:].sum() > 2 * bone[:, :32].sum()  # the spine lies at the back: in the lower half


def test_real_dicom_is_in_order_and_where_the_nifti_of_the_same_scan_is(tmp_path):
    with tarfile.open(_real("dcm_mr_t1_oblique_pddl/series_40slices.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    volume = read_dicom(tmp_path)
    assert volume.array.shape == (274, 384, 40)
    half = read_nifti(_real("dcm_mr_t1_oblique_pddl/t1_half.nii.gz"))  # means of 2x2x2 voxels of the scan
    blocks = volume.array.reshape(137, 2, 192, 2, 20, 2).mean((1, 3, 5))
    middle = volume.affine @ [0.5, 0.5, 0.5, 1]
    offset = np.linalg.solve(half.affine, middle)[:3]
    np.testing.assert_allclose(offset, offset.round(), atol=0.01)
    x, y, z = offset.round().astype(int)
    assert (x, y) == (0, 0)
    np.testing.assert_allclose(blocks, half.array[:, :, z : z + 20], atol=1)


def test_real_tiny_dicom():
    folder = _real("dcm_tiny_pydicom")
    with pytest.raises(ValueError, match=r"number of series: got 4"):
        read_dicom(folder)
    small, packed = (read_dicom(folder / f"MR_small{kind}.dcm") for kind in ("", "_RLE"))
    np.testing.assert_array_equal(small.array, packed.array)
    with pytest.raises(ValueError, match=r"MR_truncated.dcm: got .*allowed: pixels"):
        read_dicom(folder / "MR_truncated.dcm")
    raw = pydicom.dcmread(folder / "CT_small.dcm").pixel_array
    assert read_dicom(folder / "CT_small.dcm").array.max() == raw.max() - 1024


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_with_their_neighbours(axis):
    """On a ramp along the axis each channel is the slice's number and its own offset, but for the ends."""
    ramp = np.moveaxis(np.broadcast_to(np.arange(6.0)[:, None, None], (6, 4, 3)), 0, axis)
    stack = slice_stack(ramp, 2, axis)
    assert stack.shape == (6, 4, 3, 5)
    np.testing.assert_array_equal(stack[2:4, 1, 2], [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(stack[[0, 5], 3, 0], [[0, 0, 0, 1, 2], [3, 4, 5, 5, 5]])


def test_a_slice_without_neighbours_is_itself():
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.testing.assert_array_equal(slice_stack(volume, 0)[..., 0], volume.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="neighbours: got -1"):
        slice_stack(volume, -1)
    with pytest.raises(ValueError, match="axis: got 3"):
        slice_stack(volume, 1, 3)
