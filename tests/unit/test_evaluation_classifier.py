"""The classifier of the metrics: accurate on digits, in doubt about what is none, saved with its digest."""

import numpy as np
import pytest

from diffax.data import ArraySource, digits, stack_items
from diffax.evaluation import (
    classifier_modes,
    extract,
    frechet_distance,
    load_classifier,
    save_classifier,
    train_classifier,
)


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(digits("train"), digits("test"), seed=0, steps=300)


@pytest.fixture(scope="module")
def images():
    train, test = (stack_items(digits(split)) for split in ("train", "test"))
    flat = train["image"].reshape(-1, 64).astype(np.float64)
    rng = np.random.default_rng(0)
    gaussian = rng.multivariate_normal(flat.mean(0), np.cov(flat.T), 500).clip(-1, 1)
    return {
        "train": train["image"],
        "test": test["image"],
        "noise": rng.uniform(-1, 1, (500, 8, 8, 1)).astype(np.float32),
        "gaussian": gaussian.reshape(-1, 8, 8, 1).astype(np.float32),
        "histogram": np.bincount(train["label"]),
    }


def test_it_reads_98_percent_of_held_out_digits(classifier, images):
    labels = stack_items(digits("test"))["label"]
    measured = float((classifier.probabilities(images["test"]).argmax(1) == labels).mean())
    assert measured == pytest.approx(classifier.accuracy)
    assert measured >= 0.98


def test_the_gate_lets_digits_through_and_noise_not(classifier, images):
    found = {
        name: classifier_modes(classifier.probabilities(images[name]), images["histogram"])
        for name in ("test", "noise", "gaussian")
    }
    assert found["test"].modes == 10
    assert found["test"].high_quality > 0.93
    assert found["test"].kl < 0.01
    assert found["noise"].high_quality < 0.01
    assert found["noise"].total_variation > 0.99
    assert found["gaussian"].high_quality < 0.15


def test_its_features_rank_sets_of_images(classifier, images):
    features = {
        name: extract(classifier.extractor, images[name]) for name in ("train", "test", "noise", "gaussian")
    }
    distance = {name: frechet_distance(features["train"], features[name]) for name in features}
    assert classifier.extractor.dim == 64
    assert abs(distance["train"]) < 1e-3
    assert distance["test"] < 0.1 * distance["gaussian"]
    assert distance["gaussian"] < distance["noise"]


def test_a_saved_classifier_comes_back_bit_for_bit(classifier, images, tmp_path):
    path = tmp_path / "deep" / "classifier.npz"
    digest = save_classifier(path, classifier)
    again = load_classifier(path)
    assert again.extractor.digest == digest == classifier.extractor.digest
    assert (again.accuracy, again.image_shape, again.num_classes) == (classifier.accuracy, (8, 8, 1), 10)
    x = images["test"][:50]
    np.testing.assert_array_equal(again.probabilities(x), classifier.probabilities(x))
    np.testing.assert_array_equal(extract(again.extractor, x), extract(classifier.extractor, x))
    assert [p.name for p in path.parent.iterdir()] == ["classifier.npz"]


def test_changed_or_broken_files_are_refused(classifier, tmp_path):
    path = tmp_path / "c.npz"
    save_classifier(path, classifier)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    kernel = next(name for name in arrays if name.endswith("kernel"))
    np.savez(path, **(arrays | {kernel: arrays[kernel] + 1e-6}))
    with pytest.raises(ValueError, match=r"c.npz: digest: got '.*', allowed: .* as written with it"):
        load_classifier(path)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(ValueError, match="allowed: a file that save_classifier wrote"):
        load_classifier(path)
    with pytest.raises(ValueError, match=r"path: got '.*none.npz'"):
        load_classifier(tmp_path / "none.npz")


def test_training_is_a_function_of_its_seed_and_takes_other_images():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 9, 10, 3)).astype(np.uint8)
    x[::2] //= 4  # class 0 is dark
    source = ArraySource(x, np.arange(40) % 2)
    options = {"steps": 25, "batch_size": 16}
    one, two, other = (train_classifier(source, source, seed=s, **options) for s in (0, 0, 1))
    assert one.extractor.digest == two.extractor.digest != other.extractor.digest
    assert one.accuracy == 1.0


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            (8, 8, 1),
            (8, 9, 1),
            r"source_test: image shape: got \(8, 9, 1\), allowed: \(8, 8, 1\), as source_train",
        ),
        ((4, 8, 8, 1), (4, 8, 8, 1), r"source_train: image shape: got \(4, 8, 8, 1\), allowed: \(h, w, c\)"),
    ],
)
def test_training_refuses_and_names(train, test, message):
    sources = [ArraySource(np.zeros((4, *shape), np.uint8), np.arange(4)) for shape in (train, test)]
    with pytest.raises(ValueError, match=message):
        train_classifier(*sources)
    with pytest.raises(ValueError, match="source_test: got 'no labels'"):
        train_classifier(sources[0], ArraySource(np.zeros((4, *train), np.uint8)))
