"""Figures of masks and scores: planted truths with known values, pairs by hand, scikit-learn's numbers."""

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve as sklearn_curve

from diffax.evaluation import (
    auroc,
    average_precision,
    best_dice,
    calibration_curve,
    calibration_error,
    dice,
    generalized_energy_distance,
    iou,
)


def square(top, left, side=10, size=24):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((24, 24), bool)


def scores(seed, shape=(3, 20, 15, 1), levels=None):
    """Scores that know something of a truth that a quarter of elements have; with ties if ``levels``."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < 0.25
    score = 0.8 * truth + rng.normal(size=shape)
    return (np.round(score * levels) / levels if levels else score), truth


# --- overlaps


@pytest.mark.parametrize("form", [lambda m: m, lambda m: m[..., None], lambda m: m.astype(np.float32)])
def test_overlaps_of_planted_squares(form):
    """Squares of 10 x 10: the same, three to the right (70 of 130), apart, missing, a false one, nothing."""
    pairs = [
        (square(4, 4), square(4, 4), 1, 1),
        (square(4, 7), square(4, 4), 140 / 200, 70 / 130),
        (square(0, 0), square(12, 12), 0, 0),
        (EMPTY, square(4, 4), 0, 0),
        (square(4, 4), EMPTY, 0, 0),
        (EMPTY, EMPTY, 1, 1),
    ]
    predicted, truth, by_dice, by_iou = (np.array(column) for column in zip(*pairs, strict=True))
    np.testing.assert_allclose(dice(form(predicted), form(truth)), by_dice, rtol=1e-14)
    np.testing.assert_allclose(iou(form(predicted), form(truth)), by_iou, rtol=1e-14)


def test_overlaps_agree_with_scikit_learn_on_volumes():
    a, b = np.random.default_rng(0).random((2, 4, 6, 5, 7)) < 0.4
    for ours, theirs in ((dice, metrics.f1_score), (iou, metrics.jaccard_score)):
        expected = [theirs(truth.ravel(), predicted.ravel()) for predicted, truth in zip(a, b, strict=True)]
        np.testing.assert_allclose(ours(a, b), expected, rtol=1e-14)


# --- scores


@pytest.mark.parametrize("levels", [None, 2, 10])
def test_areas_agree_with_scikit_learn_also_with_ties(levels):
    score, truth = scores(1, levels=levels)
    flat = truth.ravel(), score.ravel()
    assert auroc(score, truth) == pytest.approx(metrics.roc_auc_score(*flat), abs=1e-13)
    assert average_precision(score, truth) == pytest.approx(metrics.average_precision_score(*flat), abs=1e-13)


def test_areas_of_planted_scores():
    truth = square(4, 4)
    assert auroc(truth * 1.0, truth) == average_precision(truth * 1.0, truth) == 1
    assert auroc(-1.0 * truth, truth) == 0
    # one value everywhere: ties count by half, and the precision is the share of true elements
    assert auroc(0.0 * truth, truth) == 0.5
    assert average_precision(0.0 * truth, truth) == pytest.approx(100 / 576)
    # a shifted square as score: hits 70 of 100, alarms 30 of 476, and half of what is tied on either side
    expected = 0.7 * (446 / 476) + 0.5 * (0.7 * 30 / 476 + 0.3 * 446 / 476)
    assert auroc(1.0 * square(4, 7), truth) == pytest.approx(expected, abs=1e-14)
    expected = 0.7 * 0.7 + 0.3 * 100 / 576
    assert average_precision(1.0 * square(4, 7), truth) == pytest.approx(expected, abs=1e-14)
    # infinite scores are only the largest, and tie
    assert auroc(np.where(truth, np.inf, 0.0), truth) == 1
    assert auroc(np.full(truth.shape, np.inf), truth) == 0.5


def test_best_dice_is_the_best_of_all_thresholds():
    score, truth = scores(2, shape=(2, 9, 8), levels=8)
    tried = {c: metrics.f1_score(truth.ravel(), (score >= c).ravel()) for c in np.unique(score)}
    found = best_dice(score, truth)
    assert found.value == pytest.approx(max(tried.values()), abs=1e-14)
    assert tried[found.threshold] == pytest.approx(found.value, abs=1e-14)


def test_best_dice_of_planted_scores():
    truth = np.stack([square(4, 4), EMPTY])
    # pooled: a false square as bright as the true one halves the precision; a dimmer one does not count
    for brightness, value, threshold in ((3.0, 2 / 3, 3.0), (2.0, 1.0, 3.0), (5.0, 2 / 3, 3.0)):
        score = np.stack([3.0 * square(4, 4), brightness * square(9, 9)])
        assert best_dice(score, truth) == pytest.approx((value, threshold))
    # scores that say nothing: all is called true
    assert best_dice(0.0 * truth, truth) == pytest.approx((200 / (100 + 2 * 576), 0.0))


# --- distributions of masks


def test_energy_distance_of_planted_sets():
    a, b, far = square(4, 4), square(4, 7), square(14, 14)
    d = 1 - 70 / 130
    assert generalized_energy_distance(np.stack([a, b]), np.stack([b, a])) == pytest.approx(0, abs=1e-14)
    assert generalized_energy_distance(a[None], b[None]) == pytest.approx(2 * d)
    assert generalized_energy_distance(a[None], far[None]) == pytest.approx(2)
    # the mean answer where annotators disagree: 2 (d / 2) - 0 - d / 2
    assert generalized_energy_distance(a[None], np.stack([a, b])) == pytest.approx(d / 2)
    # half of the annotators saw nothing, and so did half of the samples; then none of the samples did
    half = np.stack([a, EMPTY])
    assert generalized_energy_distance(half, half) == pytest.approx(0, abs=1e-14)
    assert generalized_energy_distance(EMPTY[None], half) == pytest.approx(2 * 0.5 - 0.5)
    assert generalized_energy_distance(EMPTY[None], np.stack([EMPTY] * 3)) == 0


def test_energy_distance_agrees_with_pairs_by_hand():
    rng = np.random.default_rng(3)
    samples, references = rng.random((5, 6, 7)) < 0.4, rng.random((3, 6, 7)) < 0.2
    references[1] = samples[2] = False

    def mean(first, second):
        sets = [(set(np.flatnonzero(a)), set(np.flatnonzero(b))) for a, b in itertools.product(first, second)]
        return np.mean([1 - len(a & b) / len(a | b) if a | b else 0 for a, b in sets])

    expected = 2 * mean(samples, references) - mean(samples, samples) - mean(references, references)
    assert generalized_energy_distance(samples, references) == pytest.approx(expected, abs=1e-14)


# --- probabilities


def test_calibration_agrees_with_scikit_learn():
    rng = np.random.default_rng(4)
    p = rng.random((4, 20, 10)) ** 3
    truth = rng.random(p.shape) < p**0.7
    curve = calibration_curve(p, truth, bins=7)
    frequency, confidence = sklearn_curve(truth.ravel(), p.ravel(), n_bins=7)
    np.testing.assert_allclose(curve.frequency, frequency, rtol=1e-12)
    np.testing.assert_allclose(curve.confidence, confidence, rtol=1e-12)
    np.testing.assert_array_equal(curve.count, np.histogram(p, np.linspace(0, 1, 8))[0])


def test_calibration_error_of_planted_probabilities():
    truth = np.concatenate([np.arange(100) < 20, np.arange(300) < 180])
    honest = np.repeat([0.2, 0.6], [100, 300])
    curve = calibration_curve(honest, truth, bins=5)
    np.testing.assert_array_equal(curve.count, [0, 100, 0, 300, 0])
    assert np.isnan(curve.frequency[[0, 2, 4]]).all()
    assert calibration_error(curve) == pytest.approx(0, abs=1e-14)
    # wrong by 0.05 on a quarter and by 0.15 on the rest
    wrong = np.repeat([0.25, 0.75], [100, 300])
    assert calibration_error(calibration_curve(wrong, truth)) == pytest.approx(0.25 * 0.05 + 0.75 * 0.15)
    # sure and right, sure and wrong; 1 falls in the last bin
    np.testing.assert_array_equal(calibration_curve(truth * 1.0, truth, bins=4).count, [200, 0, 0, 200])
    assert calibration_error(calibration_curve(truth * 1.0, truth)) == 0
    assert calibration_error(calibration_curve(1.0 - truth, truth)) == 1
    # one bin: only the means are compared, 0.5 with 0.5
    assert calibration_error(calibration_curve(truth * 0.0 + 0.5, truth, bins=1)) == pytest.approx(0)
    assert math.isnan(calibration_curve(wrong, truth).confidence[0])


# --- what is refused

A = square(4, 4)[None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dice(A, A[:, :5]), r"truth: shape: got \(1, 5, 24\), allowed: \(1, 24, 24\), as predicted"),
        (lambda: iou(A * 2, A), r"predicted: got \(0, 2\), allowed: booleans, or 0 and 1"),
        (lambda: iou(A[:0], A[:0]), r"predicted: shape: got \(0, 24, 24\), allowed: .*not empty"),
        (lambda: auroc(A * 1.0, A | True), "truth: got 'no false element', allowed: elements of both"),
        (lambda: auroc(A * 1.0, A & False), "truth: got 'no true element'"),
        (lambda: average_precision(A * 1.0, A & False), "truth: got 'no true element'"),
        (lambda: best_dice(A * np.nan, A), "score: got 'NaN', allowed: numbers"),
        (lambda: best_dice(A[0] * 1.0, A), r"truth: shape: got \(1, 24, 24\), allowed: \(24, 24\)"),
        (lambda: generalized_energy_distance(A, A[:, :5]), r"references: shape: got \(1, 5, 24\)"),
        (
            lambda: calibration_curve(A * 1.5, A),
            r"probability: got \(0.0, 1.5\), allowed: values in",
        ),
        (lambda: calibration_curve(A * 1.0, A, bins=0), "bins: got 0, allowed: an integer >= 1"),
    ],
)
def test_segmentation_figures_refuse_and_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
