"""Radiographs from files: depth, windows, MONOCHROME1, what is refused, and squares."""

import numpy as np
import pytest
from making_volumes import SECRET
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from diffax.data import dicom, fit_square, radiographs, read_radiograph, undo_square

RAMP = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def save_dicom(path, values=RAMP, **tags):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data.PatientName, data.PatientID, data.Modality = SECRET, SECRET, "DX"
    data.Rows, data.Columns, data.SamplesPerPixel = *values.shape[:2], 1
    data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored = "MONOCHROME2", 16, 16
    data.HighBit, data.PixelRepresentation = 15, 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def table(entries, first, bits, values):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, first, bits])
    item.add_new("LUTData", "US", [int(v) for v in values])
    return [item]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix):
    path = save(tmp_path / f"ramp.{suffix}", RAMP)
    found = read_radiograph(path, (0, 65535))
    np.testing.assert_array_equal(np.round(found.image * 65535), RAMP)
    assert (found.how, found.window, found.spacing, found.inverted) == ("given", (0, 65535), None, False)
    usual = read_radiograph(path)
    assert usual.how == "percentiles"
    np.testing.assert_allclose(usual.window, np.quantile(RAMP, [0.005, 0.995]), rtol=1e-6)
    assert (usual.image.min(), usual.image.max()) == (0, 1)


def test_eight_bits_are_shown_whole(tmp_path):
    grey = (RAMP // 257).astype(np.uint8)
    for name, array in {"grey.png": grey, "equal.png": np.stack([grey] * 3, -1)}.items():
        found = read_radiograph(save(tmp_path / name, array))
        assert found.how == "type"
        np.testing.assert_allclose(found.image, grey / 255, atol=1e-6)
    np.testing.assert_allclose(read_radiograph(tmp_path / "grey.png", invert=True).image, 1 - grey / 255,
                               atol=1e-6)  # fmt: skip
    wide = np.repeat(np.repeat(grey, 8, 0), 8, 1)
    np.testing.assert_allclose(read_radiograph(save(tmp_path / "grey.jpg", wide)).image, wide / 255,
                               atol=0.02)  # fmt: skip
    values = RAMP.astype(np.float32) / 100 - 300
    found = read_radiograph(save(tmp_path / "float.tif", values), (-100, 100))
    np.testing.assert_allclose(found.image, np.clip((values + 100) / 200, 0, 1), atol=1e-6)


def test_windows_of_dicom_are_the_standards(tmp_path):
    def shown(**tags):
        return read_radiograph(save_dicom(tmp_path / "film.dcm", **tags))

    x, (c, w) = RAMP.astype(np.float64), (30000.0, 20001.0)
    linear = shown(WindowCenter=[c, 1.0], WindowWidth=[w, 2.0], PixelSpacing=[0.2, 0.3])
    np.testing.assert_allclose(linear.image, np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1), atol=1e-6)
    assert linear[1:] == ((0.2, 0.3), (c - 0.5 - 1e4, c - 0.5 + 1e4), "file", False)
    exact = shown(WindowCenter=c, WindowWidth=w, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(exact.image, np.clip((x - c) / w + 0.5, 0, 1), atol=1e-6)
    sigmoid = shown(WindowCenter=c, WindowWidth=w, VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(sigmoid.image, 1 / (1 + np.exp(-4 * (x - c) / w)), atol=1e-6)
    rescaled = shown(WindowCenter=-30, WindowWidth=20, VOILUTFunction="LINEAR_EXACT",
                     RescaleSlope=-0.001, RescaleIntercept=0)  # fmt: skip
    np.testing.assert_allclose(rescaled.image, np.clip((-x / 1000 + 30) / 20 + 0.5, 0, 1), atol=1e-6)
    voi = shown(VOILUTSequence=table(256, 1300, 8, np.arange(256) ** 2 // 255), ImagerPixelSpacing=[0.1, 0.1])
    inside = np.clip(x - 1300, 0, 255)  # two pixels are below, one is inside, and the others above
    np.testing.assert_allclose(voi.image, inside**2 // 255 / 255, atol=1e-6)
    assert voi[1:4] == ((0.1, 0.1), None, "file")
    assert shown().how == "percentiles"


def test_monochrome1_is_the_inverse_of_monochrome2(tmp_path):
    for tags in ({}, {"WindowCenter": 30000, "WindowWidth": 20000}):
        second = read_radiograph(save_dicom(tmp_path / "two.dcm", **tags))
        first = read_radiograph(
            save_dicom(tmp_path / "one.dcm", 65535 - RAMP, PhotometricInterpretation="MONOCHROME1",
                       **{name: 65536 - v if name == "WindowCenter" else v for name, v in tags.items()})
        )  # fmt: skip
        assert first.inverted
        assert not second.inverted
        np.testing.assert_allclose(first.image, second.image, atol=1e-6)
        np.testing.assert_allclose(
            read_radiograph(tmp_path / "one.dcm", (0, 65535)).image, RAMP / 65535, atol=1e-6
        )
        again = read_radiograph(tmp_path / "one.dcm", invert=True)
        np.testing.assert_allclose(again.image, 1 - first.image, atol=1e-6)


def test_no_patient_is_read(tmp_path):
    data = dicom.read_tags(save_dicom(tmp_path / "film.dcm"), radiographs._TAGS, pixels=True)
    assert SECRET not in str(data)
    assert "PatientName" not in data


def test_squares_there_and_back():
    image = np.random.default_rng(0).uniform(0.2, 0.8, (40, 60)).astype(np.float32)
    image = np.asarray(Image.fromarray(image).resize((60, 40)))
    square = fit_square(image, 60)
    np.testing.assert_array_equal(square[10:50], image)
    assert square[:10].max() == square[50:].max() == 0
    np.testing.assert_array_equal(undo_square(square, image.shape), image)
    small = fit_square(image, 15)
    np.testing.assert_allclose(small.mean(), image.mean() * 40 / 60, rtol=0.02)  # the mean of all, not a pick
    assert undo_square(small, image.shape).shape == image.shape


MISTAKES = {
    "colours": (lambda p: save(p / "a.png", (np.eye(4)[..., None] * [9, 5, 9]).astype(np.uint8)), "colours"),
    "constant": (lambda p: save(p / "a.png", np.full((4, 4), 7, np.uint8)), "7 everywhere"),
    "nan": (lambda p: save(p / "a.tif", np.array([[1, np.nan]], np.float32)), "nan or inf"),
    "alpha": (lambda p: save(p / "a.png", np.stack([np.eye(4, dtype=np.uint8)] * 4, -1)), "alpha"),
    "unreadable": (lambda p: (p / "a.png").write_bytes(b"no") and p / "a.png", "allowed: a whole PNG"),
    "missing": (lambda p: p / "a.png", "an existing PNG"),
    "folder": (lambda p: p, "an existing PNG"),
    "frames": (lambda p: save_dicom(p / "a.dcm", np.stack([RAMP] * 2), Rows=6, Columns=8, NumberOfFrames=2),
               "NumberOfFrames: got 2"),
    "rgb": (lambda p: save_dicom(p / "a.dcm", PhotometricInterpretation="RGB"), "PhotometricInterpretation"),
    "ct": (lambda p: save_dicom(p / "a.dcm", Modality="CT"), "Modality: got 'CT'"),
    "cut": (lambda p: save_dicom(p / "a.dcm", Rows=600), "pixels that pydicom can decode"),
    "window": (lambda p: save_dicom(p / "a.dcm", WindowCenter=1, WindowWidth=0.5), "a VOI window"),
    "spacing": (lambda p: save_dicom(p / "a.dcm", PixelSpacing=[0, 1]), "spacing"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_the_file(tmp_path, name):
    make, words = MISTAKES[name]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=r"got .*allowed") as caught:
        read_radiograph(path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_windows_have_an_order(tmp_path):
    with pytest.raises(ValueError, match=r"window: got \(5.0, 5.0\)"):
        read_radiograph(save(tmp_path / "a.png", RAMP), (5, 5))
