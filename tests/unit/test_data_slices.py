"""Slices of volumes as a source: turned as displays turn them, windowed, and split by patient."""

import pickle

import numpy as np
import pytest
from making_volumes import affine_of, ct_slice, places, write_nifti, write_series

from diffax.data import display_slice, open_source, read_volume
from diffax.data import slices as slices_module


@pytest.mark.parametrize("name", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize(("axis", "down", "across"), [("axial", 1, 0), ("coronal", 2, 0), ("sagittal", 2, 1)])
def test_slices_are_turned_as_displays_turn_them(tmp_path, name, axis, down, across):
    """The head or the front is above; the patient's right, or the front, is at the left."""
    affine, shape = affine_of(name), (5, 6, 7)
    world = places(affine, shape)
    for direction in range(3):
        low, high = world[..., direction].min(), world[..., direction].max()
        path = write_nifti(tmp_path / "v.nii", affine, shape, lambda w, d=direction: w[..., d])
        source = open_source(path, "all", axis=axis, value_range=(low, high))
        images = np.stack([source[i]["image"][..., 0] for i in range(len(source))])
        steps = [np.sign(np.diff(images, axis=a)) for a in (0, 1, 2)]  # upwards, down, to the right
        expected = [1 if direction not in (down, across) else 0, -1 * (direction == down)]
        expected.append(-1 * (direction == across))
        assert [set(np.unique(s)) for s in steps] == [{e} for e in expected]
        ends = source[0]["image"], source[len(source) - 1]["image"]
        assert (min(e.min() for e in ends), max(e.max() for e in ends)) == (-1, 1)


def test_values_are_clipped_to_the_window_and_match_the_place(tmp_path):
    path = write_nifti(tmp_path / "v.nii.gz", affine_of("oblique"))
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
    path = write_nifti(tmp_path / "v.nii", affine, shape, lambda w: w[..., 2] + 0.5 * w[..., 0])
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
    path = write_nifti(tmp_path / "v.nii", np.eye(4), (16, 16, 2), board)
    image = open_source(path, "all", value_range=(0, 100), size=4)[0]["image"]
    assert np.abs(image).max() < 0.2


def _cohort(root, patients, scans=1):
    """Volumes whose value is the number of the patient."""
    for p in range(patients):
        for s in range(scans):
            path = root / f"p{p}" / f"s{s}.nii.gz" if scans > 1 else root / f"p{p}.nii.gz"
            write_nifti(path, np.eye(4), (3, 3, 4), lambda w, p=p: np.full(w.shape[:3], p))
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
    write_series(tmp_path / "test" / "ct", [ct_slice(k) for k in range(4)])
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
    path = write_nifti(
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
