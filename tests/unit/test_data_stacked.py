"""Stacked images: which digits lie in which channel, and the labels that read them."""

import numpy as np
import pytest

from diffax.data import ArraySource, StackedSource, digits, open_source
from diffax.evaluation import stacked_modes


def flat(values):
    """Images of one grey level each, labelled by it."""
    pixels = np.asarray(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return ArraySource(pixels, np.asarray(values), value_range=(0, 9), num_classes=10)


def test_the_label_reads_the_channels():
    stacked = StackedSource(flat(range(10)), 300, pad=1)
    assert stacked.spec.shapes["image"] == (4, 4, 3)
    assert stacked.spec.num_classes == 1000
    for index in range(300):
        item = stacked[index]
        levels = np.round((item["image"][1, 1] + 1) / 2 * 9).astype(int)
        assert int("".join(map(str, levels))) == int(item["label"])
        np.testing.assert_array_equal(item["image"][0], -1.0)
        np.testing.assert_array_equal(item["image"][:, -1], -1.0)


def test_items_are_fixed_independent_and_even():
    stacked = StackedSource(flat(range(10)), 20_000)
    np.testing.assert_array_equal(stacked[17]["image"], StackedSource(flat(range(10)), 50)[17]["image"])
    labels = np.array([int(stacked[i]["label"]) for i in range(20_000)])
    counts = np.bincount(labels, minlength=1000)
    # chi-square of 1,000 equally likely modes: mean 999, standard deviation sqrt(2 * 999) = 45
    assert abs(float(((counts - 20) ** 2 / 20).sum()) - 999) < 4 * 45
    assert not np.array_equal(labels[:100], [int(StackedSource(flat(range(10)), 100, seed=1)[i]["label"])
                                             for i in range(100)])  # fmt: skip


def test_the_end_and_errors():
    stacked = StackedSource(flat([3]), 5)
    assert int(stacked[-1]["label"]) == 333
    with pytest.raises(IndexError):
        stacked[5]
    with pytest.raises(ValueError, match="labels"):
        StackedSource(ArraySource(np.zeros((2, 2, 2, 1), np.uint8)), 5)
    with pytest.raises(ValueError, match="image shape"):
        StackedSource(ArraySource(np.zeros((2, 2, 2, 3), np.uint8), np.zeros(2, int)), 5)


def test_the_embedded_digits_by_name():
    train, held_out = (open_source("stacked_digits", split) for split in ("train", "test"))
    assert train.spec.shapes["image"] == (8, 8, 3)
    single = digits("test")
    own = {single[i]["image"][..., 0].tobytes() for i in range(360)}
    for channel in range(3):
        assert np.ascontiguousarray(held_out[7]["image"][..., channel]).tobytes() in own
        assert np.ascontiguousarray(train[7]["image"][..., channel]).tobytes() not in own


class TestStackedModes:
    def sure(self, labels, confidence=0.95):
        rest = (1 - confidence) / 9
        digits_of = np.stack([labels // 100, labels // 10 % 10, labels % 10], axis=1)
        return rest + (confidence - rest) * np.eye(10)[digits_of]

    def test_every_mode_once(self):
        found = stacked_modes(self.sure(np.arange(1000)))
        assert (found.modes, found.high_quality) == (1000, 1.0)
        assert found.kl == pytest.approx(0.0, abs=1e-12)
        assert found.total_variation == pytest.approx(0.0, abs=1e-12)

    def test_the_floor_of_the_divergence_follows_from_n(self):
        """E KL of N uniform draws over k modes is about (k - 1) / (2 N)."""
        labels = np.random.default_rng(0).integers(1000, size=25_600)
        assert stacked_modes(self.sure(labels)).kl == pytest.approx(999 / 51_200, rel=0.1)

    def test_one_doubtful_channel_is_enough_to_be_left_out(self):
        probabilities = self.sure(np.array([123, 456, 456]))
        probabilities[0, 1] = 0.1
        found = stacked_modes(probabilities)
        assert (found.modes, found.high_quality) == (1, pytest.approx(2 / 3))
        assert found.histogram[456] == pytest.approx(2 / 3)
        assert found.kl == pytest.approx(np.log(1000))
        assert stacked_modes(probabilities, gate=0.05).modes == 2

    def test_rows_that_are_no_probabilities(self):
        with pytest.raises(ValueError, match="sum of a row"):
            stacked_modes(np.ones((2, 3, 10)))
