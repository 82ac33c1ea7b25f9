"""Shares of outcomes: in clusters, of paired models, by judges that err; and how far judges agree."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffax.checks import require
from diffax.evaluation.intervals import Interval


def cluster_bootstrap_interval(
    values: Float[np.ndarray, "n"],
    clusters: Int[np.ndarray, "n"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean that draws whole clusters, as cases of one cluster are alike.

    ``clusters`` numbers each case's cluster from 0. A draw's mean is the sum over its clusters' cases by
    their count (a ratio of sums), so clusters may differ in size. From fewer than about 20 clusters it is
    too narrow; one cluster gives an interval of no width. Field & Welsh 2007 (J. R. Stat. Soc. B 69).

    Raises ``ValueError`` for no value, values that are not finite, lengths that differ, or a level outside
    (0, 1).
    """
    require(len(values) > 0 and bool(np.isfinite(values).all()), "values", values.shape, "finite, n >= 1")
    require(len(clusters) == len(values), "clusters", len(clusters), f"as many as values: {len(values)}")
    require(bool((clusters >= 0).all()), "clusters", int(clusters.min()), "integers >= 0")
    require(0 < level < 1, "level", level, "(0, 1)")
    require(resamples >= 1, "resamples", resamples, "an integer >= 1")
    means = _cluster_means(values, clusters, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def mcnemar(worse: int, better: int) -> float:
    """Exact two-sided p of "as many got worse as better" among the pairs that changed.

    ``min(1, 2 P(X <= min(worse, better)))`` with X binomial of ``worse + better`` trials at 1/2. McNemar 1947
    (Psychometrika 12). Raises ``ValueError`` for negative counts.
    """
    require(min(worse, better) >= 0, "worse, better", (worse, better), "integers >= 0")
    n, tail, term = worse + better, 0, 1  # the term is a binomial coefficient, each from the one before
    for k in range(min(worse, better) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of each of m tests, so that any is below a level wrongly with at most that probability.

    Of p in ascending order ``max_{j <= i} min(1, (m - j + 1) p_j)``. Holm 1979 (Scand. J. Statist. 6). Raises
    ``ValueError`` for numbers outside [0, 1].
    """
    p = np.asarray(p_values, float)
    require(bool(((p >= 0) & (p <= 1)).all()), "p_values", list(p_values)[:3], "numbers in [0, 1]")
    order, found = np.argsort(p, kind="stable"), np.empty(len(p))
    found[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(p), 0, -1) * p[order]))
    return [float(value) for value in found]


class Calibration(NamedTuple):
    """What a judge said of items whose truth is known: of ``bad`` ones it found ``bad_found``, and of
    ``good`` ones it passed ``good_passed``. Sensitivity and specificity are the two shares."""

    bad_found: int
    bad: int
    good_passed: int
    good: int


def corrected_rate(
    values: Float[np.ndarray, "n"],
    clusters: Int[np.ndarray, "n"],
    judge: Calibration,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The share that is really bad, from verdicts (0 or 1) of a judge that errs, with its interval.

    ``(p + Sp - 1) / (Se + Sp - 1)``, cut to [0, 1] (Rogan & Gladen 1978, Am. J. Epidemiol. 107). The interval
    is of a bootstrap that draws clusters of items and, at the same time, both parts of the calibration set:
    a small one leaves much open, and a bootstrap of items alone hides that. Draws in which the judge is no
    better than a coin count as the whole range.

    Raises ``ValueError`` for counts that cannot be, an empty part of the calibration set, or Se + Sp <= 1.
    """
    for name, share, whole in (("bad_found", *judge[:2]), ("good_passed", *judge[2:])):
        require(0 <= share <= whole and whole >= 1, f"judge.{name}", share, f"0 to {whole}, of one or more")
    sensitivity, specificity = judge.bad_found / judge.bad, judge.good_passed / judge.good
    informs = sensitivity + specificity > 1
    require(informs, "judge: Se + Sp", round(sensitivity + specificity, 4), "more than 1")
    draw = np.random.default_rng(seed)
    p = _cluster_means(values, clusters, resamples, draw)
    se = draw.binomial(judge.bad, sensitivity, resamples) / judge.bad
    sp = draw.binomial(judge.good, specificity, resamples) / judge.good
    low, high = _corrected(p, se, sp, 0.0), _corrected(p, se, sp, 1.0)
    point = _corrected(np.mean(values), sensitivity, specificity, 0.0)
    edges = float(np.quantile(low, (1 - level) / 2)), float(np.quantile(high, (1 + level) / 2))
    return Interval(float(point), *edges)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement of two judges beyond chance, ``(p_o - p_e) / (1 - p_e)``; 1 where both always say the same
    one thing. Cohen 1960 (Educ. Psychol. Meas. 20). Raises ``ValueError`` for no item, or lengths that
    differ."""
    require(len(first) == len(second) > 0, "second", len(second), f"as many as first: {len(first)}, not 0")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    one, other = Counter(first), Counter(second)
    expected = sum(one[label] * other[label] for label in one) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff_alpha(ratings: Sequence[Sequence[Hashable | None]]) -> float:
    """Agreement of any number of judges, ``1 - D_o / D_e`` of nominal labels; None is a missing rating.

    ``ratings[i]`` are those of item i by all judges; items with fewer than two are left out. 1 is agreement,
    0 what chance gives. Krippendorff 2011, Computing Krippendorff's Alpha-Reliability. Raises ``ValueError``
    without an item that two judges rated.
    """
    rated = [[label for label in item if label is not None] for item in ratings]
    rated = [item for item in rated if len(item) >= 2]
    require(bool(rated), "ratings", 0, "an item with two ratings or more")
    total = Counter(label for item in rated for label in item)
    n = sum(total.values())
    apart = sum(_unequal_pairs(Counter(item)) / (len(item) - 1) for item in rated)
    expected = _unequal_pairs(total) / (n - 1)
    return 1.0 if expected == 0 else 1 - apart / expected


def _unequal_pairs(counts: Counter[Hashable]) -> int:
    """Ordered pairs of different labels."""
    n = sum(counts.values())
    return n * n - sum(count * count for count in counts.values())


def _corrected(p: Any, se: Any, sp: Any, otherwise: float) -> Any:
    informs = se + sp > 1
    found = (p + sp - 1) / np.where(informs, se + sp - 1, 1)
    return np.where(informs, np.clip(found, 0, 1), otherwise)


def _cluster_means(
    values: Float[np.ndarray, "n"], clusters: Int[np.ndarray, "n"], resamples: int, draw: np.random.Generator
) -> Float[np.ndarray, "r"]:
    """Means of draws of whole clusters."""
    _, places = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(places, values), np.bincount(places).astype(float)
    means = np.empty(resamples)
    for number in range(resamples):
        counts = np.bincount(draw.integers(len(sums), size=len(sums)), minlength=len(sums))
        means[number] = counts @ sums / (counts @ sizes)
    return means
