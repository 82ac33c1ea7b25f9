"""Agreement of masks, and of the scores and samples they come from, with a known truth.

Masks are booleans, or 0 and 1, in images (n, h, w), (n, h, w, 1), (n, h, w, d): only the first axis has a
meaning, and only where a figure is per image. What is measured over "all elements" is pooled: one number for
all pixels of all images, in which large findings weigh more than small ones.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Shaped

from diffax.checks import require

Masks = Shaped[np.ndarray | Array, "..."]
Scores = Shaped[np.ndarray | Array, "..."]  # real numbers, larger where the truth is more likely


class BestDice(NamedTuple):
    """The largest pooled Dice of ``score >= threshold``, and the threshold that reaches it."""

    value: float
    threshold: float


class Calibration(NamedTuple):
    """Stated probabilities beside what came true, by bins of equal width over [0, 1].

    Attributes:
      confidence: mean probability in each bin; NaN where nothing falls in it.
      frequency: share of true elements in each bin; NaN where nothing falls in it.
      count: number of elements in each bin.
    """

    confidence: Float64[np.ndarray, "bins"]
    frequency: Float64[np.ndarray, "bins"]
    count: Int[np.ndarray, "bins"]  # type: ignore[assignment]  # hides tuple.count


def dice(predicted: Masks, truth: Masks) -> Float64[np.ndarray, "n"]:
    """Dice overlap ``2 |A and B| / (|A| + |B|)`` of each image; 1 where both masks are empty.

    Dice 1945 (Ecology 26). Masks (n, ...); raises ``ValueError`` for unequal shapes or other values.
    """
    both, either = _overlap(predicted, truth)
    return _ratio(2 * both, both + either)


def iou(predicted: Masks, truth: Masks) -> Float64[np.ndarray, "n"]:
    """Intersection over union ``|A and B| / |A or B|`` of each image; 1 where both masks are empty.

    Masks (n, ...); raises ``ValueError`` for unequal shapes or other values.
    """
    return _ratio(*_overlap(predicted, truth))


def auroc(score: Scores, truth: Masks) -> float:
    """Area under the receiver operating characteristic over all elements, 0.5 for scores that say nothing.

    The probability that a true element scores above a false one, ties counted by half: the Mann-Whitney
    statistic (Hanley & McNeil 1982, Radiology 143). Raises ``ValueError`` for a NaN, unequal shapes, or a
    truth of one class only.
    """
    _, hits, alarms = _operating_points(score, truth)
    require(bool(alarms[-1] > 0), "truth", "no false element", "elements of both classes")
    area = np.sum(np.diff(alarms) * (hits[1:] + hits[:-1])) / 2
    return float(area / (hits[-1] * alarms[-1]))


def average_precision(score: Scores, truth: Masks) -> float:
    """``sum_k (R_k - R_{k-1}) P_k``, recall and precision at each distinct score from the largest down.

    The area under the precision-recall curve as steps, without interpolation (which flatters, Davis &
    Goadrich 2006); over all elements; the share of true ones for scores that say nothing. Raises
    ``ValueError`` for a NaN, unequal shapes, or a truth without true elements.
    """
    _, hits, alarms = _operating_points(score, truth)
    precision = hits[1:] / (hits[1:] + alarms[1:])
    return float(np.sum(np.diff(hits) * precision) / hits[-1])


def best_dice(score: Scores, truth: Masks) -> BestDice:
    """The largest pooled Dice of ``score >= threshold`` that one threshold for all elements can reach.

    Exact: every distinct score is tried. The threshold is chosen with the truth in hand, so this is a bound
    on what the scores allow, and not what a user would get. Raises ``ValueError`` for a NaN, unequal shapes,
    or a truth without true elements.
    """
    thresholds, hits, alarms = _operating_points(score, truth)
    values = 2 * hits[1:] / (hits[1:] + alarms[1:] + hits[-1])
    best = int(np.argmax(values))
    return BestDice(float(values[best]), float(thresholds[best]))


def generalized_energy_distance(samples: Masks, references: Masks) -> float:
    """``2 E d(S, R) - E d(S, S') - E d(R, R')`` of one image's masks, with ``d = 1 - IoU``; 0 to 2.

    The squared distance of two distributions of masks, here of a model's ``samples`` (s, ...) and of several
    annotators' ``references`` (r, ...). Means are over all pairs, those of a mask with itself included, so
    equal sets have 0. Two empty masks have d = 0. Kohl et al. 2018 (arXiv:1806.05034), section 3. Raises
    ``ValueError`` for an empty set, unequal shapes of masks, or other values.
    """
    like = samples.shape[1:]
    require(references.shape[1:] == like, "references: shape", references.shape, f"(r, *{like}), as samples")
    a = _flat("samples", samples).astype(np.float64)
    b = _flat("references", references).astype(np.float64)
    return 2 * _mean_distance(a, b) - _mean_distance(a, a) - _mean_distance(b, b)


def calibration_curve(probability: Scores, truth: Masks, bins: int = 10) -> Calibration:
    """Mean stated probability and share of true elements, in ``bins`` bins ``[k, k + 1) / bins``.

    The last bin holds 1 too. Raises ``ValueError`` for probabilities outside [0, 1], unequal shapes, or no
    bin.
    """
    p, true = _scored(probability, truth)
    require(bins >= 1, "bins", bins, "an integer >= 1")
    require(
        bool((p >= 0).all() and (p <= 1).all()),
        "probability",
        (float(p.min()), float(p.max())),
        "values in [0, 1]",
    )
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = (np.bincount(index, weights, minlength=bins) for weights in (p, true.astype(np.float64)))
    confidence, frequency = (np.where(count > 0, s / np.maximum(count, 1), np.nan) for s in sums)
    return Calibration(confidence, frequency, count)


def calibration_error(curve: Calibration) -> float:
    """Expected calibration error: mean over elements of ``|frequency - confidence|`` of their bin, 0 to 1.

    Guo et al. 2017 (arXiv:1706.04599), equation 3. It depends on the number of bins; compare equal ones.
    """
    held = curve.count > 0
    gap = np.abs(curve.frequency[held] - curve.confidence[held])
    return float(np.average(gap, weights=curve.count[held]))


def _overlap(predicted: Masks, truth: Masks) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Sizes of the intersection and of the union, of each image."""
    require(predicted.shape == truth.shape, "truth: shape", truth.shape, f"{predicted.shape}, as predicted")
    a, b = _flat("predicted", predicted), _flat("truth", truth)
    return (a & b).sum(1).astype(np.float64), (a | b).sum(1).astype(np.float64)


def _ratio(part: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


def _mean_distance(a: Float64[np.ndarray, "s p"], b: Float64[np.ndarray, "r p"]) -> float:
    """Mean of 1 - IoU over all pairs of flat masks of zeros and ones."""
    both = a @ b.T
    return float(1 - _ratio(both, a.sum(1)[:, None] + b.sum(1) - both).mean())


def _operating_points(
    score: Scores, truth: Masks
) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Distinct scores, falling, and the numbers of true and of false elements at or above each.

    The numbers begin with one place more (m = k + 1), for a threshold above all scores: 0.
    """
    values, true = _scored(score, truth)
    order = np.argsort(-values)
    values, true = values[order], true[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)  # of each group of equals
    hits = np.append(0.0, np.cumsum(true)[last])
    alarms = np.append(0.0, last + 1.0) - hits
    require(bool(hits[-1] > 0), "truth", "no true element", "at least one")
    return values[last], hits, alarms


def _scored(score: Scores, truth: Masks) -> tuple[Float64[np.ndarray, "p"], Bool[np.ndarray, "p"]]:
    require(score.shape == truth.shape, "truth: shape", truth.shape, f"{score.shape}, as the scores")
    values, true = np.asarray(score, np.float64).ravel(), _flat("truth", truth).ravel()
    require(not np.isnan(values).any(), "score", "NaN", "numbers")
    return values, true


def _flat(field: str, masks: Masks) -> Bool[np.ndarray, "n p"]:
    masks = np.asarray(masks)
    require(masks.size > 0, f"{field}: shape", masks.shape, "(n, ...), not empty")
    if masks.dtype != bool:
        valid = bool(((masks == 0) | (masks == 1)).all())
        require(valid, field, (masks.min().item(), masks.max().item()), "booleans, or 0 and 1")
    return masks.reshape(len(masks), -1).astype(bool)
