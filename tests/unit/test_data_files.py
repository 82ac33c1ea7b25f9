"""Users' own files: npz, image folders, Parquet and TFDS, whole and corrupt."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from diffax.data import open_source, pipeline
from diffax.data.decode import decode_image, read_image

_RNG = np.random.default_rng(3)


def _pixels(*shape):
    return _RNG.integers(0, 256, shape).astype(np.uint8)


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _unit(pixels):
    return pixels.astype(np.float64) / 127.5 - 1


def _folder(root, files):
    for name, array in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return root


# --- npz


def test_npz_with_splits_reads_each_and_counts_classes_over_both(tmp_path):
    x = _pixels(5, 6, 4)
    path = tmp_path / "d.npz"
    labels = {"y_train": np.array([0, 1, 0], np.uint8), "y_test": np.array([[2], [0]])}
    np.savez(path, x_train=x[:3], x_test=x[3:], **labels)
    train, test, whole = (open_source(path, s) for s in ("train", "test", "all"))
    assert [len(s) for s in (train, test, whole)] == [3, 2, 5]
    assert train.spec.num_classes == test.spec.num_classes == 3
    np.testing.assert_allclose(test[1]["image"], _unit(x[4])[..., None], atol=1e-6)
    assert [int(whole[i]["label"]) for i in range(5)] == [0, 1, 0, 2, 0]


def test_npz_with_one_array_wants_a_holdout(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, image=np.linspace(-1, 1, 10 * 4).reshape(10, 2, 2, 1))
    assert "label" not in open_source(path, "all")[0]
    assert len(open_source(path, "test", holdout=0.2)) == 2
    with pytest.raises(ValueError, match="holdout: got None, allowed: a share"):
        open_source(path, "train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pictures": np.zeros((2, 2, 2, 1))},
            r"arrays: got \['pictures'\], allowed: x_train and x_test",
        ),
        ({"x_train": np.zeros((2, 4))}, r"x_train: shape: got \(2, 4\)"),
        ({"x_train": np.full((2, 4, 4), 3.0)}, r"x_train\[0\]: got 3.0, allowed: finite values in \[-1, 1\]"),
        ({"x_train": np.zeros((2, 4, 4)), "y_train": np.zeros(3, int)}, r"y_train|label of .*: shape"),
        ({"x_train": np.zeros((2, 4, 4)), "y_train": np.zeros(2)}, "dtype: got 'float64'"),
        ({"x_test": np.zeros((2, 4, 4))}, "split of .*: got 'train', allowed: one of all, test"),
        ({"x_train": np.array([{}, {}])}, "allowed: a .npz file of plain arrays"),
    ],
)
def test_npz_refuses_and_names(tmp_path, arrays, message):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        open_source(path, "train")
    assert "d.npz" in str(error.value)


def test_npz_splits_must_agree_in_shape(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x_train=_pixels(2, 4, 4), x_test=_pixels(2, 5, 4))
    with pytest.raises(ValueError, match=r"x_test: got 'uint8 .*, allowed: shape and dtype of x_train"):
        open_source(path, "all")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"hello"])
def test_broken_npz_is_named(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.npz: got .* allowed: a .npz file"):
        open_source(path)


# --- folders


def test_folder_with_classes_and_splits(tmp_path):
    a, b, c = _pixels(4, 4), _pixels(4, 4), _pixels(4, 4)
    files = {"train/cat/1.png": a, "train/dog/x.TIFF": b, "test/dog/1.png": c, "train/.cache/0.png": a}
    root = _folder(tmp_path, files)
    train, test = open_source(root, "train"), open_source(root, "test")
    assert train.spec.class_names == test.spec.class_names == ("cat", "dog")
    np.testing.assert_allclose(train[1]["image"][..., 0], _unit(b), atol=1e-6)
    # "cat" is absent from test: dog keeps its number all the same
    assert int(test[0]["label"]) == int(train[1]["label"]) == 1
    assert (len(train), len(open_source(root, "all"))) == (2, 3)
    with pytest.raises(ValueError, match=r"split of .*: got 'val', allowed: one of all, test, train"):
        open_source(root, "val")
    _folder(root, {"plane/1.png": a})  # "train" may be a class of vehicles after all
    with pytest.raises(ValueError, match=r"images of .*: got \['plane'\], allowed: nothing but the split"):
        open_source(root, "train")


def test_flat_folder_has_no_labels_and_preloads_to_the_same_items(tmp_path):
    root = _folder(tmp_path, {f"{i}.png": _pixels(5, 4, 3) for i in range(4)})
    lazy, loaded = open_source(root, "all"), open_source(root, "all", preload=True)
    assert set(lazy[0]) == {"image"}
    for i in range(4):
        np.testing.assert_array_equal(lazy[i]["image"], loaded[i]["image"])
    assert len(open_source(root, "train", holdout=0.5)) == 2


def test_center_crop_takes_the_middle_and_resizing_averages():
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    assert (decode_image(_png(wide), "w", size=4) == 200).all()
    flat = np.full((9, 6, 3), 130, np.uint8)
    small = decode_image(_png(flat), "f", size=3)
    assert small.shape == (3, 3, 3)
    assert np.abs(small.astype(int) - 130).max() <= 1
    board = np.indices((8, 8)).sum(0) % 2 * 255  # finer than the output: antialiasing leaves grey
    assert np.abs(decode_image(_png(board.astype(np.uint8)), "b", size=2).astype(float) - 127.5).max() < 30


def test_channels_and_palettes():
    rgb = _pixels(3, 3, 3)
    assert decode_image(_png(rgb), "x", channels=1).shape == (3, 3, 1)
    grey = _pixels(3, 3)
    np.testing.assert_array_equal(
        decode_image(_png(grey), "x", channels=3), np.repeat(grey[..., None], 3, -1)
    )
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 3, 3), (255, 0, 0), np.uint8)).convert("P").save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), "x")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_keeps_its_depth_and_needs_a_range(tmp_path, suffix):
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    root = _folder(tmp_path, {f"a.{suffix}": deep})
    with pytest.raises(ValueError, match=rf"a.{suffix}: value_range: got None, allowed: \(low, high\)"):
        open_source(root, "all")
    image = open_source(root, "all", value_range=(0, 60000))[0]["image"][..., 0]
    np.testing.assert_allclose(image, deep / 30000 - 1, atol=1e-6)
    assert open_source(root, "all", value_range=(0, 60000), size=2)[0]["image"].shape == (2, 2, 1)
    with pytest.raises(ValueError, match=rf"a.{suffix}: got 60000.0, allowed: finite values in \[0, 4095\]"):
        open_source(root, "all", value_range=(0, 4095), preload=True)


def test_folder_refuses_and_names_at_opening(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"images in .*empty: got 0, allowed: at least one of .png"):
        open_source(tmp_path / "empty", "all")
    root = _folder(tmp_path / "mixed", {"a.png": _pixels(2, 2), "cat/b.png": _pixels(2, 2)})
    with pytest.raises(ValueError, match=r"classes of .*mixed: got \['', 'cat'\]"):
        open_source(root, "all")
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(
        ValueError, match=r"type of .*note.txt: got '.txt', allowed: one of .dcm, .*.npz, .parquet"
    ):
        open_source(tmp_path / "note.txt")


def test_folder_checks_each_item_on_reading(tmp_path):
    root = _folder(tmp_path, {"0.png": _pixels(4, 4), "1.png": _pixels(5, 4), "3.png": _pixels(4, 4, 4)})
    (tmp_path / "2.jpg").write_bytes(_png(_pixels(64, 64))[:200])
    Image.fromarray(_pixels(4, 4)).save(
        tmp_path / "4.tif", save_all=True, append_images=[Image.new("L", (4, 4))]
    )
    source = open_source(root, "all")
    source[0]
    with pytest.raises(ValueError, match=r"1.png: shape: got \(5, 4, 1\), allowed: \(4, 4, 1\)"):
        source[1]
    with pytest.raises(ValueError, match=r"2.jpg: got .*, allowed: a whole PNG, JPEG or TIFF"):
        source[2]
    with pytest.raises(ValueError, match=r"3.png: alpha: got \d+, allowed: an opaque image"):
        source[3]
    with pytest.raises(ValueError, match=r"4.tif: frames: got 2, allowed: a single image"):
        source[4]


# --- Parquet


def _table(path, images, labels=None, image="image"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {image: images} | ({} if labels is None else {"label": labels})
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("preload", [False, True])
def test_parquet_bytes_and_structs(tmp_path, struct, preload):
    x = _pixels(4, 6, 6, 3)
    cells = [{"bytes": _png(i), "path": None} if struct else _png(i) for i in x]
    source = open_source(_table(tmp_path / "d.parquet", cells, [3, 0, 1, 1]), "all", preload=preload)
    np.testing.assert_allclose(source[3]["image"], _unit(x[3]), atol=1e-6)
    assert (int(source[0]["label"]), source.spec.num_classes) == (3, 4)


def test_parquet_shards_are_chosen_by_split(tmp_path):
    x = _pixels(5, 4, 4)
    names = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
    for name, part in zip(names, (x[:2], x[2:4], x[4:]), strict=True):
        _table(tmp_path / f"{name}.parquet", [_png(i) for i in part], [0] * len(part))
    assert [len(open_source(tmp_path, s)) for s in ("train", "test", "all")] == [4, 1, 5]
    with pytest.raises(ValueError, match=r"allowed: .*folder with dev"):
        open_source(tmp_path, "dev")


@pytest.mark.parametrize(
    ("cells", "labels", "options", "message"),
    [
        ([_png(_pixels(4, 4)), b"nonsense"], None, {}, r"d.parquet: row 1: got .*allowed: a whole PNG"),
        ([_png(_pixels(4, 4)), None], None, {}, r"row 1: got None, allowed: encoded bytes in column 'image'"),
        ([_png(_pixels(4, 4)), _png(_pixels(4, 5))], None, {}, r"row 1: shape: got \(4, 5, 1\)"),
        ([_png(_pixels(4, 4))], [-1], {}, "label of .*: got -1"),
        ([_png(_pixels(4, 4))], ["cat"], {}, "dtype: got .*allowed: an integer type"),
        ([_png(_pixels(4, 4))], None, {"image": "img"}, r"columns: got \['image'\], allowed: a column 'img'"),
        ([_png(_pixels(4, 4))], None, {"channels": 2}, "channels: got '2', allowed: one of 1, 3, None"),
    ],
)
def test_parquet_refuses_and_names(tmp_path, cells, labels, options, message):
    path = _table(tmp_path / "d.parquet", cells, labels)
    with pytest.raises(ValueError, match=message):
        open_source(path, "all", **options)


def test_broken_parquet_is_named(tmp_path):
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"d.parquet: got .*allowed: a readable Parquet file"):
        open_source(path, "all")


# --- TFDS


def _prepare_tfds(root, images, labels):
    """Write what `tfds build --file_format=array_record` leaves on disk, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    writer_module = pytest.importorskip("array_record.python.array_record_module")
    shape = images.shape[1:]
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(num_classes=5)}
    )
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    writer = writer_module.ArrayRecordWriter(
        str(folder / "tiny-train.array_record-00000-of-00001"), "group_size:1"
    )
    for image, label in zip(images, labels, strict=True):
        writer.write(serializer.serialize_example({"image": _png(image), "label": int(label)}))
    writer.close()
    features.save_config(str(folder))
    split = {
        "name": "train",
        "shardLengths": [str(len(images))],
        "numBytes": "100",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_prepared_tfds_is_read(tmp_path):
    x = _pixels(7, 4, 5, 3)
    _prepare_tfds(tmp_path, x, np.arange(7) % 5)
    source = open_source("tfds:tiny", "train", data_dir=tmp_path)
    assert (len(source), source.spec.num_classes) == (7, 5)
    np.testing.assert_allclose(source[6]["image"], _unit(x[6]), atol=1e-6)
    assert int(source[6]["label"]) == 1
    assert len(open_source("tfds:tiny", "train[:3]", data_dir=tmp_path)) == 3
    with pytest.raises(ValueError, match="tfds: got 'tiny', split 'test'"):
        open_source("tfds:tiny", "test", data_dir=tmp_path)


def test_prepared_tfds_is_read_by_worker_processes_too(tmp_path):
    _prepare_tfds(tmp_path, _pixels(7, 4, 5, 3), np.arange(7) % 5)
    source = open_source("tfds:tiny", "train", data_dir=tmp_path)
    plain = pipeline(source, 2, 0)
    with pipeline(source, 2, 0, workers=1) as pipe:
        for _ in range(4):
            np.testing.assert_array_equal(next(pipe)["image"], next(plain)["image"])


def test_unprepared_tfds_says_how_to_prepare_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match=r"tfds: got 'mnist'.*tfds build mnist --file_format=array_record"):
        open_source("tfds:mnist", "train", data_dir=tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "diffax\[data\]"'):
        decode_image(b"", "x")


def test_one_image_in_the_library_s_range(tmp_path):
    grey = np.array([[0, 255], [51, 204]], np.uint8)
    (tmp_path / "grey.png").write_bytes(_png(grey))
    expected = np.array([[-1, 1], [-0.6, 0.6]])[..., None]
    np.testing.assert_allclose(read_image(tmp_path / "grey.png"), expected, atol=1e-6)
    assert read_image(tmp_path / "grey.png", size=4, channels=3).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="image"):
        read_image(tmp_path / "none.png")
    Image.fromarray(np.array([[0, 1000]], np.uint16)).save(tmp_path / "deep.png")
    deep = read_image(tmp_path / "deep.png", value_range=(0, 1000))
    np.testing.assert_allclose(deep[0, :, 0], [-1, 1], atol=1e-6)
    with pytest.raises(ValueError, match=r"deep\.png"):
        read_image(tmp_path / "deep.png")
