"""Written volumes: voxels lie where they lay, series land in their study, and nothing is half-written."""

import gzip
import os
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from making_volumes import (
    LINEAR,
    SECRET,
    affine_of,
    ct_slice,
    hounsfield,
    places,
    rotation,
    write_series,
)

from diffax.data import Volume, canonical, read_dicom
from diffax.io import read_volume, require_square_pixels, require_straight, tilt_of, write_dicom, write_nifti
from diffax.io import volumes as module

NAMES = sorted(LINEAR)
_REAL = Path(os.environ.get("DIFFAX_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "volumes"


def made(name, shape=(5, 6, 7), factor=20.0):
    """A volume on canonical axes, filled by place."""
    affine = affine_of(name)
    return canonical((factor * hounsfield(places(affine, shape))).astype(np.float32), affine)


def tilted(degrees, n=4):
    """A series whose slices are shifted along their columns, as a tilted gantry does."""
    slices = [ct_slice(k, affine=np.eye(3)) for k in range(n)]
    for k, data in enumerate(slices):
        x, y, z = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y + 2.5 * k * np.tan(np.radians(degrees)), z]
    return slices


def headers(folder):
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


# --- NIfTI


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_goes_there_and_back(tmp_path, name, suffix):
    volume, path = made(name), tmp_path / f"v{suffix}"
    write_nifti(path, volume, description="reconstructed, 8 views")
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
    header = nibabel.load(path).header
    assert [int(header[field]) for field in ("sform_code", "qform_code")] == [1, 1]
    np.testing.assert_allclose(header.get_qform(), volume.affine, atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == np.float32
    assert header["descrip"].item() == b"reconstructed, 8 views"
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (suffix == ".nii.gz")
    first = path.read_bytes()
    assert suffix == ".nii" or first[4:8] == bytes(4)  # no time in there: equal volumes give equal files
    write_nifti(path, volume, description="reconstructed, 8 views")
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == [path.name]


def test_nifti_of_sheared_axes_has_no_qform(tmp_path):
    volume = read_dicom(write_series(tmp_path / "ct", tilted(15)))
    write_nifti(tmp_path / "v.nii.gz", volume)
    np.testing.assert_allclose(read_volume(tmp_path / "v.nii.gz").affine, volume.affine, atol=1e-4)
    assert int(nibabel.load(tmp_path / "v.nii.gz").header["qform_code"]) == 0


def test_nifti_refuses_and_leaves_nothing(tmp_path):
    volume = made("RAS")
    broken = Volume(np.full((2, 2, 2), np.nan, np.float32), np.eye(4))
    for path, given, description, message in (
        ("v.gz", volume, "", r"path: got .*v.gz', allowed: a name that ends in .nii or .nii.gz"),
        ("v.nii", volume, "é" * 40, r"description: got .*allowed: at most 79 bytes"),
        ("v.nii", broken, "", "volume: voxels: got 'nan or inf'"),
        ("v.nii", Volume(volume.array, np.zeros((4, 4))), "", "volume: affine: got .*can be inverted"),
    ):
        with pytest.raises(ValueError, match=message):
            write_nifti(tmp_path / path, given, description=description)
    assert os.listdir(tmp_path) == []


# --- DICOM


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dicom_goes_there_and_back(tmp_path, name, modality):
    volume = made(name)
    series = write_dicom(tmp_path / "out", volume, description="a test", modality=modality)
    back = read_dicom(tmp_path / "out", series=series)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
    quantum = 0.5 if modality == "CT" else 1e-4 * np.ptp(volume.array)
    np.testing.assert_allclose(back.array, volume.array, atol=quantum, rtol=1e-6)
    data = headers(tmp_path / "out")
    slope = 1.0 if modality == "CT" else pytest.approx(np.ptp(volume.array) / 65000)
    assert data[0].RescaleSlope == slope
    assert [int(d.InstanceNumber) for d in data] == list(range(1, len(data) + 1))
    assert data[0].PatientName == data[0].PatientID == "ANONYMOUS"
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID"):
        assert len({d[tag].value for d in data}) == 1
    # axial slices, rows to the left and columns to the back of the patient
    assert (np.argmax(np.abs(np.reshape(data[0].ImageOrientationPatient, (2, 3))), 1) == [0, 1]).all()
    assert min(data[0].ImageOrientationPatient[0], data[0].ImageOrientationPatient[4]) > 0.8


@pytest.mark.parametrize(
    "turn",
    [
        rotation(0.2, -0.15, 0.3),
        np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),  # coronal
        np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),  # sagittal
        np.diag([-1.0, 1.0, -1.0]),  # feet first
    ],
)
def test_a_derived_series_lies_on_its_source(tmp_path, turn):
    slices = [ct_slice(k, affine=turn) for k in range(6)]
    for data in slices:
        data.StudyInstanceUID, data.FrameOfReferenceUID, data.PatientSex = "1.2.9", "1.2.8", "F"
    source = write_series(tmp_path / "source", slices, order=[4, 0, 5, 2, 1, 3])
    volume = read_dicom(source)
    changed = Volume(volume.array * np.float32(30), volume.affine)
    write_dicom(tmp_path / "out", changed, template=source, description="x 30", derivation="times thirty")
    before, after = sorted(slices, key=lambda d: int(d.SOPInstanceUID[6:])), headers(tmp_path / "out")
    assert len(after) == 6
    for old, new in zip(before, after, strict=True):
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(
                np.asarray(new[tag].value, float), np.asarray(old[tag].value, float), atol=1e-4
            )
        expected = pydicom.pixels.apply_modality_lut(old.pixel_array, old) * 30
        np.testing.assert_allclose(new.pixel_array, expected, atol=0.51)
        for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "PatientSex"):
            assert new[tag].value == old[tag].value
        assert list(new.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert (new.SeriesDescription, new.DerivationDescription) == ("x 30", "times thirty")
        assert new.SOPClassUID == pydicom.uid.CTImageStorage
        assert (new.RescaleSlope, new.RescaleType, new.Modality) == (1, "HU", "CT")
        assert float(new.SliceThickness) == float(new.SpacingBetweenSlices) == pytest.approx(2.5)
    assert len({d.SOPInstanceUID for d in after} | {d.SOPInstanceUID for d in before}) == 12
    assert {d.SeriesInstanceUID for d in after}.isdisjoint({d.SeriesInstanceUID for d in before})
    back = read_dicom(tmp_path / "out")
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(back.array, changed.array, atol=0.5, rtol=1e-6)


def test_a_source_without_a_name_gives_a_series_without_one(tmp_path):
    data = ct_slice(0)
    data.SliceThickness, data.PatientName, data.PatientID = 2.5, "", ""
    source = write_series(tmp_path / "source", [data])
    write_dicom(tmp_path / "out", read_dicom(source), template=source, description="test")
    (written,) = headers(tmp_path / "out")
    assert written.PatientName == written.PatientID == ""


@pytest.mark.parametrize(
    ("low", "high", "slope"),
    [(0, 1, None), (-1000, 3000, 1), (0, 150, 1), (-1e5, 2e5, None), (5, 5, 1), (0, 60, None)],
)
def test_values_are_stored_to_a_small_part_of_their_range(tmp_path, low, high, slope):
    array = np.random.default_rng(0).uniform(low, high, (4, 5, 3)).astype(np.float32)
    write_dicom(tmp_path / "out", Volume(array, np.eye(4)), modality="CT", description="test")
    error = np.abs(read_dicom(tmp_path / "out").array - array).max()
    assert error <= (0.5 if slope and high > low else 1e-4 * (high - low))
    assert slope is None or headers(tmp_path / "out")[0].RescaleSlope == slope


def test_dicom_refuses_and_leaves_nothing(tmp_path):
    volume = made("RAS")
    source = write_series(tmp_path / "source", [ct_slice(k) for k in range(2)])
    sheared = read_dicom(write_series(tmp_path / "tilted", tilted(12)))
    (tmp_path / "file").write_text("in use")
    for given, folder, settings, message in (
        (volume, "source", {}, r"folder: got .*source', allowed: one that does not exist yet, or is empty"),
        (volume, "file", {}, r"folder: got .*file', allowed: one that does not exist"),
        (sheared, "out", {}, r"volume: angle between step and normal of slices: got '12.00 degrees', allow"),
        (volume, "out", {"modality": None}, r"modality: got None, allowed: one of CT, MR"),
        (volume, "out", {"modality": "PT"}, r"modality: got 'PT', allowed: one of CT, MR"),
        (volume, "out", {"description": "a" * 65}, r"description: got .*at most 64 characters"),
        (volume, "out", {"description": "a\\b"}, r"description: got .*no backslash"),
        (volume, "out", {"derivation": "a" * 1025}, r"derivation: got .*at most 1024 characters"),
        (
            volume,
            "out",
            {"template": tmp_path / "absent"},
            r"path: got .*absent', allowed: a folder of DICOM",
        ),
        (volume, "out", {"template": source, "series": "7"}, r"series: got '7', allowed: one of: 1\.2\.3"),
        (Volume(volume.array * np.float32(np.inf), volume.affine), "out", {}, "volume: voxels: got 'nan or"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            write_dicom(tmp_path / folder, given, **{"description": "test", "modality": "CT", **settings})
        assert SECRET not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "source", "tilted"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    real, written = module._write_slice, []

    def failing(path, *rest):
        if len(written) == 3:
            raise OSError("no space left")
        written.append(path)
        real(path, *rest)

    monkeypatch.setattr(module, "_write_slice", failing)
    with pytest.raises(OSError, match="no space left"):
        write_dicom(tmp_path / "out", made("RAS"), modality="CT", description="test")
    assert len(written) == 3
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(gzip, "compress", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_nifti(tmp_path / "v.nii.gz", made("RAS"))
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_dicom(tmp_path / "out", made("RAS"), modality="MR", description="test")
    assert len(os.listdir(tmp_path / "out")) == 7
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", NAMES)
def test_another_program_reads_the_same(tmp_path, name):
    sitk = pytest.importorskip("SimpleITK")
    volume = made(name)
    write_dicom(tmp_path / "out", volume, modality="CT", description="test")
    write_nifti(tmp_path / "v.nii.gz", volume)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    for image in (reader.Execute(), sitk.ReadImage(str(tmp_path / "v.nii.gz"))):
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
        read = canonical(array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
        np.testing.assert_allclose(read.affine, volume.affine, atol=1e-4)
        np.testing.assert_allclose(read.array, volume.array, atol=0.51)


def test_a_series_derived_from_a_real_oblique_one_lies_on_it(tmp_path):
    archive = _REAL / "dcm_mr_t1_oblique_pddl" / "series_40slices.tar.gz"
    if not archive.exists():
        pytest.skip(f"no {archive}: set DIFFAX_DATA")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "source", filter="data")
    volume = read_volume(tmp_path / "source")
    require_straight(volume, "source")
    write_dicom(tmp_path / "out", volume, template=tmp_path / "source", description="copy")
    normal = np.cross(*np.reshape(np.float64(headers(tmp_path / "out")[0].ImageOrientationPatient), (2, 3)))
    before = sorted(headers(tmp_path / "source"), key=lambda d: normal @ np.float64(d.ImagePositionPatient))
    after = headers(tmp_path / "out")
    for old, new in zip(before, after, strict=True):
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(np.float64(new[tag].value), np.float64(old[tag].value), atol=1e-6)
        for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "Modality"):
            assert new[tag].value == old[tag].value
        stored = pydicom.pixels.apply_modality_lut(new.pixel_array, new)
        np.testing.assert_allclose(stored, old.pixel_array, atol=1e-4 * np.ptp(volume.array))


# --- checks


@pytest.mark.parametrize("degrees", [0.0, 3.0, -20.0])
def test_gantry_tilt_is_read_as_it_is_and_named(tmp_path, degrees):
    volume = read_dicom(write_series(tmp_path, tilted(degrees)))
    assert tilt_of(volume) == pytest.approx(abs(degrees), abs=1e-4)
    step = volume.affine[:3, 2]
    np.testing.assert_allclose(step, [0, -2.5 * np.tan(np.radians(degrees)), 2.5], atol=1e-6)
    if degrees == 0:
        return require_straight(volume, "scan")
    with pytest.raises(ValueError, match=rf"scan: angle .*got '{abs(degrees):.2f} degrees', .*gantry tilt"):
        require_straight(volume, "scan")
    return require_straight(volume, "scan", most=21.0)


@pytest.mark.parametrize("name", NAMES)
def test_straight_axes_are_straight_however_they_lie(name):
    assert tilt_of(made(name)) < 1e-4
    require_straight(made(name), name)


def test_pixels_that_are_not_square_are_named():
    affine = np.diag([0.7, 0.7, 2.0, 1.0])
    volume = Volume(np.zeros((2, 2, 2), np.float32), affine)
    require_square_pixels(volume, "scan")
    with pytest.raises(
        ValueError, match=r"scan: pixels of coronal slices: got '0.7000 x 2.0000 mm', allowed: square"
    ):
        require_square_pixels(volume, "scan", axis="coronal")
    with pytest.raises(ValueError, match="axis: got 'up', allowed: one of axial, coronal, sagittal"):
        require_square_pixels(volume, "scan", axis="up")


def test_files_cut_short_are_named_in_one_line(tmp_path):
    whole = write_series(tmp_path, [ct_slice(k) for k in range(3)]) / "001.dcm"
    content = whole.read_bytes()
    for n in range(0, len(content), 7):
        whole.write_bytes(content[:n])
        with pytest.raises(ValueError, match=r"001\.dcm: .*allowed: |number of series") as error:
            read_dicom(tmp_path)
        assert "\n" not in str(error.value)
