"""Intervals of a mean: they hold the true one as often as they say, and agree with scipy's."""

import numpy as np
import pytest
from scipy import stats

from diffax.evaluation import bootstrap_interval, bootstrap_statistic


@pytest.mark.parametrize(("level", "n"), [(0.8, 40), (0.95, 40)])
def test_intervals_hold_the_mean_as_often_as_they_say(level, n):
    """Of 400 studies with mean 1/2; the share within three standard errors, and two per cent for n = 40."""
    studies = np.random.default_rng(0).random((400, n)) ** 2 + 1 / 6
    found = [bootstrap_interval(x, level=level, resamples=300, seed=i) for i, x in enumerate(studies)]
    share = np.mean([low <= 0.5 <= high for _, low, high in found])
    assert abs(share - level) < 0.02 + 3 * np.sqrt(level * (1 - level) / len(studies)), share


def test_scipy_agrees():
    values = np.random.default_rng(1).exponential(size=50)
    ours = bootstrap_interval(values, level=0.9, resamples=20000)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20000, method="percentile", rng=2
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_an_interval_depends_on_values_and_seed_only(monkeypatch):
    values = np.random.default_rng(3).normal(size=(60))
    first = bootstrap_interval(values, resamples=500, seed=5)
    assert first == bootstrap_interval(values, resamples=500, seed=5)
    assert first != bootstrap_interval(values, resamples=500, seed=6)
    # drawn in blocks, the last one smaller: the same draws
    monkeypatch.setattr("diffax.evaluation.intervals._BLOCK", 60 * 70)
    assert first == bootstrap_interval(values, resamples=500, seed=5)


def test_one_case_has_an_interval_of_no_width():
    assert bootstrap_interval(np.array([3.0])) == (3.0, 3.0, 3.0)
    assert bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros(0)}, r"values: got \(0,\), allowed: finite, n >= 1"),
        ({"values": np.array([1, np.nan])}, r"values: got \(2,\), allowed: finite"),
        ({"values": np.ones(3), "level": 95.0}, r"level: got 95.0, allowed: \(0, 1\)"),
        ({"values": np.ones(3), "resamples": 0}, "resamples: got 0, allowed: an integer >= 1"),
    ],
)
def test_intervals_refuse_and_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_a_statistic_of_all_cases():
    """For the mean it is the other function's interval, up to the draws; the median has its own."""
    values = np.random.default_rng(4).exponential(size=80)
    mean = bootstrap_statistic(lambda rows: values[rows].mean(), 80, resamples=3000)
    other = bootstrap_interval(values, resamples=3000)
    assert mean.mean == pytest.approx(values.mean())
    assert mean[1:] == pytest.approx(other[1:], abs=0.1 * (other.high - other.low))
    median = bootstrap_statistic(lambda rows: float(np.median(values[rows])), 80)
    assert median.low < np.log(2) < median.high
    assert median == bootstrap_statistic(lambda rows: float(np.median(values[rows])), 80)


def test_resamples_without_an_answer_are_left_out():
    def needs_the_first(rows):
        if 0 not in rows:
            raise ValueError("no first case")
        return 2.0

    assert bootstrap_statistic(needs_the_first, 3) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="n: got 0"):
        bootstrap_statistic(needs_the_first, 0)
