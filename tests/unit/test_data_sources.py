"""Sources: splits, ranges, and what corrupt input is told."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffax.data import ArraySource, Source, Subset, digits, open_source, split_source, stack_items
from diffax.data.source import fixed_order

_REAL = Path(os.environ.get("DIFFAX_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def _images(n=6, shape=(4, 4, 1), dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, *shape)).astype(dtype)


def test_uint8_ends_map_exactly_to_plus_and_minus_one():
    image = np.zeros((2, 3, 3, 1), np.uint8)
    image[1] = 255
    source = ArraySource(image)
    assert (source[0]["image"] == -1).all()
    assert (source[1]["image"] == 1).all()
    assert source[0]["image"].dtype == np.float32


def test_value_range_maps_linearly_and_volumes_are_accepted():
    image = np.full((2, 3, 4, 5, 1), 25.0)
    source = ArraySource(image, value_range=(-1000, 1050))
    np.testing.assert_allclose(source[0]["image"], 0.0, atol=1e-6)
    assert source.spec.shapes["image"] == (3, 4, 5, 1)


def test_the_protocol_and_the_spec_describe_the_items():
    source = ArraySource(_images(), np.arange(6) % 3, num_classes=5)
    assert isinstance(source, Source)
    for field, value in source[2].items():
        assert value.shape == source.spec.shapes[field]
        assert value.dtype == source.spec.dtypes[field]
    assert source.spec.num_classes == 5


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (_images()[..., 0], {}, r"image: shape: got \(6, 4, 4\), allowed: \(n, h, w, c\)"),
        (_images()[:0], {}, "n >= 1"),
        (_images(dtype=np.uint16), {}, "dtype: got 'uint16', allowed: uint8"),
        (_images(dtype=np.complex64), {}, "complex64"),
        (_images(dtype=np.float32), {}, r"image\[0\]: got 248.0, allowed: finite values in \[-1, 1\]"),
        (np.where(np.arange(6) == 4, np.nan, 0.0)[:, None, None, None], {}, r"image\[4\]: got nan"),
        (np.where(np.arange(6) == 5, np.inf, 0.0)[:, None, None, None], {}, r"image\[5\]: got inf"),
        (_images(), {"value_range": (0, 100)}, r"image\[0\]: got \d+, allowed: finite values in \[0, 100\]"),
        (_images(), {"value_range": (1, 1)}, r"value_range: got \(1, 1\)"),
        (_images(), {"label": np.arange(5)}, r"label of image: shape: got \(5,\), allowed: \(6,\)"),
        (_images(), {"label": np.linspace(0, 1, 6)}, "dtype: got 'float64', allowed: an integer type"),
        (_images(), {"label": np.arange(6) - 1}, "label of image: got -1"),
        (_images(), {"label": np.arange(6), "num_classes": 4}, r"got 5, allowed: labels in \[0, 4\)"),
    ],
)
def test_array_source_refuses_and_names(image, options, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(image, **options)


def test_digits_are_the_whole_set_split_once_and_stratified():
    train, test, whole = (stack_items(digits(s)) for s in ("train", "test", "all"))
    assert (len(train["label"]), len(test["label"]), len(whole["label"])) == (1437, 360, 1797)
    joined = np.concatenate([train["image"], test["image"]]).reshape(1797, 64)
    as_counter = lambda rows: Counter(row.tobytes() for row in rows)  # noqa: E731
    assert as_counter(joined) == as_counter(whole["image"].reshape(1797, 64))
    expected = np.bincount(whole["label"]) * 360 / 1797
    assert np.abs(np.bincount(test["label"]) - expected).max() <= 1
    assert whole["image"].min() == -1
    assert whole["image"].max() == 1
    assert len(np.unique(whole["image"])) == 17


def test_the_digits_split_does_not_depend_on_the_order_of_the_file():
    from diffax.data.digits import split_indices

    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 17, (900, 64)).astype(np.uint8), rng.integers(0, 10, 900)
    order = rng.permutation(900)
    _, test = split_indices(image, label)
    _, shuffled_test = split_indices(image[order], label[order])
    assert set(test) == set(order[shuffled_test])


def test_fixed_order_is_pinned_and_a_permutation():
    # computed once with coreutils: for i in 0..5: printf $i | sha256sum, sorted by the digest
    assert fixed_order(6).tolist() == [4, 3, 0, 1, 2, 5]
    assert sorted(fixed_order(500)) == list(range(500))


def test_split_source_never_shares_items_and_demands_a_holdout():
    source = ArraySource(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1))
    parts = [split_source(source, s, 0.25) for s in ("train", "test")]
    values = [{float(part[i]["image"].item()) for i in range(len(part))} for part in parts]
    assert [len(v) for v in values] == [30, 10]
    assert not values[0] & values[1]
    assert split_source(source, "all", None) is source
    for holdout in (None, 0.0, 1.0, 0.999):
        with pytest.raises(ValueError, match="holdout: got"):
            split_source(source, "test", holdout)
    with pytest.raises(ValueError, match="split: got 'dev'"):
        split_source(source, "dev", 0.5)


def test_subset_refuses_indices_outside():
    source = ArraySource(_images())
    assert (Subset(source, [4, 1])[0]["image"] == source[4]["image"]).all()
    with pytest.raises(ValueError, match=r"indices: got 6, allowed: 0 .. 5"):
        Subset(source, [0, 6])
    with pytest.raises(ValueError, match="at least one index"):
        Subset(source, [])


def test_real_mnist_and_cifar():
    if not (_REAL / "mnist.npz").exists():
        pytest.skip(f"no mnist.npz in {_REAL}: set DIFFAX_DATA")
    source = open_source("mnist", "test", data_dir=_REAL)
    assert len(source) == 10000
    assert source.spec.shapes["image"] == (28, 28, 1)
    # the class counts that Y. LeCun's page and every copy of the test set have
    labels = [int(source[i]["label"]) for i in range(10000)]
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    source = open_source(_REAL / "cifar10_test.parquet", "all", preload=False)
    assert source.spec.shapes["image"] == (32, 32, 3)
    assert source.spec.num_classes == 10
    assert len(source) == 10000
    assert -1 <= source[77]["image"].min() < source[77]["image"].max() <= 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no/such/place", {}, "name_or_path: got 'no/such/place', allowed: one of digits, mnist, cifar10"),
        ("digits", {"size": 8}, "option for digits: got 'size', allowed: no options"),
        (
            "mnist",
            {"data_dir": "/nowhere"},
            "data_dir: got ./nowhere., allowed: a folder",
        ),
        ("digits", {"split": "dev"}, "split: got 'dev'"),
    ],
)
def test_open_source_refuses_and_names(name, options, message):
    with pytest.raises(ValueError, match=message):
        open_source(name, **options)


def test_named_data_needs_a_folder(monkeypatch):
    monkeypatch.delenv("DIFFAX_DATA", raising=False)
    with pytest.raises(ValueError, match=r"data_dir: got None, allowed: a folder that holds mnist\.npz"):
        open_source("mnist")
