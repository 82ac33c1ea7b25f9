"""Volumes: every voxel lies where it lay, slices are turned as displays turn them, bad series are named.

The oracle is a function of the place in the patient: volumes are filled with it at the places that the
*stored* axes give, and read back on axes that the reader chose.
"""

import os
import pickle
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from diffax.data import dicom, display_slice, open_source, read_dicom, read_nifti, read_volume
from diffax.data import slices as slices_module

_REAL = Path(os.environ.get("DIFFAX_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "volumes"
_SECRET = "Doe^Secret"


def _world(affine, shape):
    index = np.stack(np.indices(shape), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def _hounsfield(world):
    """Any function that tells places apart; linear, so that means and blends are known too."""
    return world @ [3.0, 5.0, -7.0] + 40


def _rotation(x, y, z):
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_x @ about_y @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])


_LINEAR = {
    "RAS": np.diag([1.0, 2.0, 3.0]),
    "LPS": np.diag([-1.0, -2.0, 3.0]),
    "PIR": np.array([[0, 0, 1.5], [-1.0, 0, 0], [0, -2.0, 0]]),
    "SLA": np.array([[0, -2.0, 0], [0, 0, 1.5], [1.0, 0, 0]]),
    "oblique": _rotation(0.3, -0.2, 0.25) @ np.diag([-1.0, 2.0, -1.5]),
}


def _affine(name):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = _LINEAR[name], [11.0, -7.0, 23.0]
    return affine


def _write_nifti(path, affine, shape=(5, 6, 7), function=_hounsfield, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(function(_world(affine, shape)).astype(dtype), affine), path)
    return path


# --- NIfTI


@pytest.mark.parametrize("name", _LINEAR)
def test_nifti_voxels_lie_where_they_lay_on_axes_right_front_head(tmp_path, name):
    volume = read_nifti(_write_nifti(tmp_path / "v.nii.gz", _affine(name)))
    expected = _hounsfield(_world(volume.affine, volume.array.shape))
    np.testing.assert_allclose(volume.array, expected, rtol=1e-5, atol=1e-3)
    assert volume.array.dtype == np.float32
    assert (np.diag(volume.affine)[:3] > 0).all()
    assert (np.abs(volume.affine[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert sorted(volume.spacing) == pytest.approx(sorted(np.linalg.norm(_LINEAR[name], axis=0)))


def test_nifti_scaling_and_unit_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1), _affine("RAS"))
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

    good = _write_nifti(tmp_path / "v.nii.gz", _affine("RAS")).read_bytes()
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
    _write_nifti(tmp_path / "v.nii.gz", _affine("RAS"), function=lambda w: np.full(w.shape[:3], np.nan))
    check("voxels: got 'nan or inf'")


# --- DICOM


def _slice(k, *, series="1.2.3", affine=None, shape=(4, 5), spacing=(0.8, 0.6), step=2.5, slope=1.0):
    """Slice k of a series on oblique axes, filled by place; stored as integers of 0.25 slope HU."""
    turn = _rotation(0.2, -0.15, 0.3) if affine is None else affine
    row, column = turn[:, 0], turn[:, 1]
    origin = np.array([-20.0, -30.0, 10.0]) + k * step * np.cross(row, column)
    j, i = np.indices(shape)
    lps = origin + row * i[..., None] * spacing[1] + column * j[..., None] * spacing[0]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    data.SeriesInstanceUID, data.Modality, data.PatientName = series, "CT", _SECRET
    data.PatientID, data.InstanceNumber = _SECRET, int(7 * k) % 11  # neither names nor numbers are in order
    data.ImagePositionPatient = [f"{v:.10g}" for v in origin]
    data.ImageOrientationPatient = [f"{v:.10g}" for v in (*row, *column)]
    data.PixelSpacing = list(spacing)
    data.Rows, data.Columns, data.SamplesPerPixel = *shape, 1
    data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored = "MONOCHROME2", 16, 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 0.25 * slope, -1024
    values = _hounsfield(lps * [-1, -1, 1])  # the function is of RAS
    data.PixelData = np.round((values + 1024) / (0.25 * slope)).astype("<i2").tobytes()
    return data


def _write_series(folder, slices, order=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(order or range(len(slices)), slices, strict=True):
        data.save_as(folder / f"{name:03d}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("name", ["oblique", "coronal", "feet first"])
def test_dicom_slices_are_ordered_by_place_and_rescaled(tmp_path, name):
    turns = {
        "oblique": None,
        "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
        "feet first": np.diag([-1.0, 1.0, -1.0]),
    }
    slices = [_slice(k, affine=turns[name], slope=1 + k % 2) for k in range(6)]
    folder = _write_series(tmp_path / "ct", slices, order=[4, 0, 5, 2, 1, 3])
    (folder / "notes.txt").write_text("not a slice")
    volume = read_dicom(folder)
    assert sorted(volume.array.shape) == [4, 5, 6]
    assert sorted(volume.spacing) == pytest.approx([0.6, 0.8, 2.5])
    np.testing.assert_allclose(
        volume.array, _hounsfield(_world(volume.affine, volume.array.shape)), atol=0.26
    )
    assert (np.abs(volume.affine[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert (np.diag(volume.affine)[:3] > 0).all()
    one = read_volume(_write_series(tmp_path / "one", [_thick(_slice(2, affine=turns[name]))]) / "000.dcm")
    np.testing.assert_allclose(one.array, _hounsfield(_world(one.affine, one.array.shape)), atol=0.13)


def _thick(data):
    data.SliceThickness = 2.5
    return data


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path):
    folder = _write_series(tmp_path, [*map(_slice, range(4)), *(_slice(k, series="4.5.6") for k in range(3))])
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
            _replaced(_slice(2), _slice(2)),
            r"distance of 002.dcm and 003.dcm in mm: got 0.0, allowed: one slice",
        ),
        (_replaced(_slice(2.3)), r"in mm: got 3.25, allowed: 2.5 as"),
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
        (_replaced(_slice(2, shape=(4, 6))), r"002.dcm: Columns: got \[6.0\], allowed: \[5.0\], as in .*000"),
    ],
)
def test_dicom_refuses_and_names_without_the_patient(tmp_path, change, message):
    slices = [_slice(k) for k in range(6)]
    change(slices)
    with pytest.raises(ValueError, match=message) as error:
        read_dicom(_write_series(tmp_path, slices))
    assert "Secret" not in str(error.value)


def test_who_the_patient_is_does_not_come_into_memory(tmp_path):
    folder = _write_series(tmp_path, [_slice(0)])
    for tags, pixels in ((dicom._HEADER, False), (dicom._PIXELS, True)):
        header = dicom._read(folder / "000.dcm", tags, pixels=pixels)
        assert "Rows" in header
        assert not {"PatientName", "PatientID"} & set(header.dir())


def test_files_that_are_no_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"a\.dcm: got .*allowed: a whole DICOM file"):
        read_dicom(tmp_path)
    (tmp_path / "a.dcm").unlink()
    with pytest.raises(ValueError, match=r"DICOM files in .*: got 0"):
        read_dicom(tmp_path)


# --- slices as a source


@pytest.mark.parametrize("name", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize(("axis", "down", "across"), [("axial", 1, 0), ("coronal", 2, 0), ("sagittal", 2, 1)])
def test_slices_are_turned_as_displays_turn_them(tmp_path, name, axis, down, across):
    """The head or the front is above; the patient's right, or the front, is at the left."""
    affine, shape = _affine(name), (5, 6, 7)
    world = _world(affine, shape)
    for direction in range(3):
        low, high = world[..., direction].min(), world[..., direction].max()
        path = _write_nifti(tmp_path / "v.nii", affine, shape, lambda w, d=direction: w[..., d])
        source = open_source(path, "all", axis=axis, value_range=(low, high))
        images = np.stack([source[i]["image"][..., 0] for i in range(len(source))])
        steps = [np.sign(np.diff(images, axis=a)) for a in (0, 1, 2)]  # upwards, down, to the right
        expected = [1 if direction not in (down, across) else 0, -1 * (direction == down)]
        expected.append(-1 * (direction == across))
        assert [set(np.unique(s)) for s in steps] == [{e} for e in expected]
        ends = source[0]["image"], source[len(source) - 1]["image"]
        assert (min(e.min() for e in ends), max(e.max() for e in ends)) == (-1, 1)


def test_values_are_clipped_to_the_window_and_match_the_place(tmp_path):
    path = _write_nifti(tmp_path / "v.nii.gz", _affine("oblique"))
    volume, source = read_volume(path), open_source(path, "all", value_range=(0, 60))
    for item in range(len(source)):
        plane = np.clip(display_slice(volume.array, "axial", item) / 30 - 1, -1, 1)
        np.testing.assert_allclose(source[item]["image"][..., 0], plane, atol=1e-5)
        assert source.slice_index(item) == (0, item)
    with pytest.raises(ValueError, match=r"value_range: got None, allowed: \(low, high\)"):
        open_source(path, "all")
    with pytest.raises(ValueError, match="axis: got 'top'"):
        open_source(path, "all", axis="top", value_range=(0, 1))


@pytest.mark.parametrize(("size", "field_mm"), [(10, None), (20, None), (10, 24.0), (15, 60.0)])
def test_size_shows_a_centred_field_in_millimetres(tmp_path, size, field_mm):
    """A ramp along the body keeps its slope per mm though rows are 3 mm apart and columns 1 mm."""
    affine, shape = np.diag([1.0, 1.0, 3.0, 1.0]), (30, 4, 20)
    path = _write_nifti(tmp_path / "v.nii", affine, shape, lambda w: w[..., 2] + 0.5 * w[..., 0])
    source = open_source(path, "all", axis="coronal", value_range=(-1, 80), size=size, field_mm=field_mm)
    image = source[1]["image"][..., 0]
    mm = (field_mm or 60) / size  # the longer side: 20 rows of 3 mm
    offset = (np.arange(size) + 0.5 - size / 2) * mm
    up, right = 28.5 - offset[:, None], 14.5 - offset[None, :]  # about the middle of the volume
    expected = 2 * (up + 0.5 * right + 1) / 81 - 1
    margin = 3 + mm
    inside = (np.abs(up - 28.5) < 30 - margin) & (np.abs(right - 14.5) < 15 - margin)
    assert inside.sum() > 5
    np.testing.assert_allclose(image[inside], expected[inside], atol=2 * 0.03)
    assert (image[:, np.abs(right[0] - 14.5) > 15 + margin] == -1).all()


def test_resizing_averages(tmp_path):
    board = lambda w: w.round().astype(int).sum(-1) % 2 * 100.0  # noqa: E731
    path = _write_nifti(tmp_path / "v.nii", np.eye(4), (16, 16, 2), board)
    image = open_source(path, "all", value_range=(0, 100), size=4)[0]["image"]
    assert np.abs(image).max() < 0.2


def _cohort(root, patients, scans=1):
    """Volumes whose value is the number of the patient."""
    for p in range(patients):
        for s in range(scans):
            path = root / f"p{p}" / f"s{s}.nii.gz" if scans > 1 else root / f"p{p}.nii.gz"
            _write_nifti(path, np.eye(4), (3, 3, 4), lambda w, p=p: np.full(w.shape[:3], p))
    return root


def _patients(source):
    return {round(float(source[i]["image"][0, 0, 0] + 1) * 10) for i in range(len(source))}


@pytest.mark.parametrize("scans", [1, 2])
def test_the_split_is_by_patient(tmp_path, scans):
    root = _cohort(tmp_path / "study" / "scans", 8, scans).parent
    train, test = (open_source(root, s, value_range=(0, 20), holdout=0.25) for s in ("train", "test"))
    assert (len(_patients(train)), len(_patients(test))) == (6, 2)
    assert not _patients(train) & _patients(test)
    assert (len(train), len(test)) == (6 * 4 * scans, 2 * 4 * scans)
    assert [int(test[i]["volume"]) for i in (0, 4)] == [0, 1]
    with pytest.raises(ValueError, match=r"holdout: got None, allowed: a share"):
        open_source(root, "train", value_range=(0, 20))
    with pytest.raises(ValueError, match=r"some of 1 patients"):
        open_source(root / "scans" / ("p0.nii.gz" if scans == 1 else "p0/s0.nii.gz"), "test", holdout=0.5)


def test_split_folders_are_honoured(tmp_path):
    _cohort(tmp_path / "train", 3)
    _write_series(tmp_path / "test" / "ct", [_slice(k) for k in range(4)])
    train, test = (open_source(tmp_path, s, value_range=(-100, 100), size=8) for s in ("train", "test"))
    assert (len(train.paths), len(test.paths), len(test)) == (3, 1, 4)
    assert len(open_source(tmp_path, "all", value_range=(-100, 100), size=8)) == 3 * 4 + 4
    with pytest.raises(ValueError, match=r"test/ct: shape of a slice: got \(4, 5, 1\), allowed: \(3, 3, 1\)"):
        open_source(tmp_path, "all", value_range=(-100, 100))
    _cohort(tmp_path, 1)
    with pytest.raises(ValueError, match=r"volumes of .*p0.nii.gz.*allowed: nothing beside the split"):
        open_source(tmp_path, "train", value_range=(0, 1))


def test_slices_with_little_content_are_left_out(tmp_path):
    # slice k shows k of 10 columns above the low end
    path = _write_nifti(
        tmp_path / "v.nii", np.eye(4), (10, 4, 8), lambda w: np.where(w[..., 0] < w[..., 2], 50.0, -1000)
    )
    source = open_source(path, "all", value_range=(0, 100), min_content=0.3)
    assert [source.slice_index(i)[1] for i in range(len(source))] == [3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match=r"min_content: got 0.9, allowed: a share that leaves"):
        open_source(path, "all", value_range=(0, 100), min_content=0.9)


def test_few_volumes_are_kept_in_memory(tmp_path, monkeypatch):
    reads = []

    def counted(path, **options):
        reads.append(path.name)
        return read_volume(path, **options)

    monkeypatch.setattr(slices_module, "read_volume", counted)
    source = open_source(_cohort(tmp_path, 3), "all", value_range=(0, 20), cache=2)
    assert reads == []
    fresh = len(pickle.dumps(source))
    for i in (0, 3, 4, 1, 8, 2, 5):
        source[i]
    assert reads == ["p0.nii.gz", "p1.nii.gz", "p2.nii.gz", "p1.nii.gz"]  # p1 is the one not used for longest
    assert len(pickle.dumps(source)) == fresh
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[7]["image"], source[7]["image"])
    reads.clear()
    loaded = open_source(tmp_path, "all", value_range=(0, 20), cache=1, preload=True)
    assert len([loaded[i] for i in (0, 4, 8, 0)]) == 4
    assert len(reads) == 3


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
