"""Cases from the user's own files: what belongs together, what is held out, what is refused in one line."""

import nibabel
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments.medical_survey import task_settings
from experiments.medical_survey.tasks import folders
from experiments.medical_survey.tasks.cases import open_cases

SHAPE = (12, 10, 4)


def settings(root, **more):
    return {
        "source": str(root),
        "holdout": 0.34,
        "value_range": (),
        "size": 16,
        "min_content": 0.0,
        "classes": 2,
        **more,
    }


def write(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.eye(4) if affine is None else affine), path)


@pytest.fixture
def root(tmp_path):
    """Three patients in two modalities; the lesion is where A is brightest, and one patient has none."""
    for k in range(3):
        a = np.zeros(SHAPE)
        a[3:9, 3:8] = 100
        a[4:7, 4 + k : 6 + k] = 200 if k < 2 else 100
        write(tmp_path / "A" / f"p{k}.nii.gz", a)
        write(tmp_path / "B" / f"p{k}.nii.gz", 300 - a)
        write(tmp_path / "mask" / f"p{k}.nii.gz", a > 150)
        write(tmp_path / "mask2" / f"p{k}.nii.gz", a > 50)
    return tmp_path


def test_files_of_a_name_belong_together(root):
    found = folders.read(settings(root), "all", ("A", "B", "mask", "label"))
    assert found["A"].shape == (12, 16, 16, 1)  # four slices of each of three patients
    for name in ("A", "B"):
        assert np.abs(found[name]).max() <= 1
    bright = found["A"] > 0.5
    lesion = found["mask"] > 0
    ill = found["label"] > 0
    assert set(np.unique(found["mask"])) == {0.0, 1.0}
    np.testing.assert_array_equal(ill, np.repeat([True, True, False], 4))
    assert (lesion & bright)[ill].sum() / lesion[ill].sum() > 0.6
    inside = (found["A"] > -0.2) & (found["A"] < 0.2)
    assert np.corrcoef(found["A"][inside], found["B"][inside])[0, 1] < 0


def test_patients_are_held_out_and_not_slices(root):
    train, test = (folders.read(settings(root), split, ("A",))["A"] for split in ("train", "test"))
    assert (len(train), len(test)) == (8, 4)
    assert not any(np.array_equal(a, b) for a in train for b in test)


def test_one_volume_is_split_in_the_middle(root):
    for k in (1, 2):
        (root / "A" / f"p{k}.nii.gz").unlink()
    ramp = np.broadcast_to(1.0 + np.arange(20), (8, 8, 20))
    write(root / "A" / "p0.nii.gz", ramp)
    config = settings(root, holdout=0.2, value_range=(0, 20))
    greys = {s: folders.read(config, s, ("A",))["A"].mean((1, 2, 3)) * 10 + 10 for s in ("train", "test")}
    np.testing.assert_allclose(greys["test"], [9, 10, 11, 12], atol=1e-4)
    np.testing.assert_allclose(greys["train"], [*range(1, 7), *range(15, 21)], atol=1e-4)
    bright = folders.read(settings(root, value_range=(9.5, 20), min_content=0.5), "all", ("A",))["A"]
    assert len(bright) == 11


def test_pixels_are_square_whatever_the_spacing(tmp_path):
    """10 x 20 voxels of 2 x 1 mm are a square of tissue: nothing is filled up."""
    write(tmp_path / "A" / "p.nii.gz", np.ones((10, 20, 2)), np.diag([2.0, 1.0, 3.0, 1.0]))
    found = folders.read(settings(tmp_path, value_range=(0, 1)), "all", ("A",))["A"]
    np.testing.assert_allclose(found, 1, atol=1e-6)


def test_several_masks_are_several_annotators(root):
    found = folders.read(settings(root), "all", ("A", "mask", "annotators"))
    assert found["annotators"].shape == (12, 16, 16, 2)
    assert (found["annotators"][..., 1] >= found["annotators"][..., 0]).all()


def test_labels_from_a_file(root):
    (root / "labels.csv").write_text("name,label\np0,2\np1,0\np2,1\n")
    found = folders.read(settings(root), "all", ("A", "label"))
    np.testing.assert_array_equal(found["label"], np.repeat([2, 0, 1], 4))


def test_stored_axes_do_not_matter(root):
    """A volume stored with its axes flipped and permuted is the same volume."""
    image = nibabel.load(root / "A" / "p0.nii.gz")
    turned = image.as_reoriented(nibabel.orientations.axcodes2ornt("PSR"))
    before = folders.read(settings(root), "all", ("A", "mask"))
    nibabel.save(turned, root / "A" / "p0.nii.gz")
    after = folders.read(settings(root), "all", ("A", "mask"))
    np.testing.assert_allclose(after["A"], before["A"], atol=1e-6)


def test_pictures(tmp_path):
    for k in range(2):
        for name, grey in (("A", 255), ("mask", 255)):
            (tmp_path / name).mkdir(exist_ok=True)
            picture = np.zeros((16, 16), np.uint8)
            picture[2 + k : 8, 3:5] = grey
            Image.fromarray(picture).save(tmp_path / name / f"{k}.png")
    found = folders.read(settings(tmp_path), "all", ("A", "mask"))
    np.testing.assert_array_equal(found["A"] > 0, found["mask"] > 0)
    assert found["mask"][0, 2:8, 3:5].all()


def broken(root, what):
    if what == "alone":
        (root / "B" / "p1.nii.gz").unlink()
    elif what == "no folder":
        (root / "mask").rename(root / "outlines")
        (root / "mask2").rename(root / "others")
    elif what == "shape":
        write(root / "mask" / "p1.nii.gz", np.zeros((12, 10, 5)))
    elif what == "orientation":
        write(root / "mask" / "p1.nii.gz", np.zeros(SHAPE), np.diag([2.0, 1.0, 1.0, 1.0]))
    elif what == "nan":
        write(root / "A" / "p1.nii.gz", np.full(SHAPE, np.nan))
    elif what == "label":
        (root / "labels.csv").write_text("p0,0\np1,1\n")
    elif what == "gap":
        (root / "labels.csv").write_text("p0,0\np1,2\np2,0\n")
    elif what == "dark":
        write(root / "A" / "p1.nii.gz", np.zeros(SHAPE))
    else:
        (root / "B" / "p1.nii.gz").write_bytes(b"not a volume")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("alone", "pairs by file name: got .'p1'."),
        ("no folder", "mask"),
        ("shape", r"mask.p1.nii.gz: shape: got .12, 10, 5."),
        ("orientation", r"mask.p1.nii.gz: affine"),
        ("nan", r"A.p1.nii.gz: voxels: got 'nan or inf'"),
        ("label", r"labels.csv: got .no label of .'p2'"),
        ("gap", r"labels.csv: labels"),
        ("dark", r"A.p1.nii.gz: largest value"),
        ("broken", r"B.p1.nii.gz"),
    ],
)
def test_what_is_refused(root, what, words):
    broken(root, what)
    with pytest.raises(ValueError, match=words):
        folders.read(settings(root), "all", ("A", "B", "mask", "annotators", "label"))


@pytest.mark.parametrize("classes", [1, 3])
def test_classes_that_training_lacks_or_does_not_expect(root, classes):
    with pytest.raises(ValueError, match=r"labels for training: got \[0, 1\]"):
        folders.read(settings(root, classes=classes), "train", ("A", "label"))
    assert len(folders.read(settings(root, classes=0), "train", ("A", "label"))["label"]) == 8


def test_a_class_that_is_missing(root):
    config = ConfigDict(task_settings.base().to_dict())
    config.data.update(settings(root))
    cases = open_cases(config, ("A", "label", "mask"))
    np.testing.assert_array_equal(cases.training(20, 1)["label"], np.ones(4))
    with pytest.raises(ValueError, match="cases of label"):
        cases.held_out(2, 3)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source: got"):
        folders.read(settings(tmp_path / "nowhere"), "train", ("A",))
