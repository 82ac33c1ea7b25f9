"""Shares of outcomes: intervals where cases come in clusters, and paired comparison of two models."""

from math import comb

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
    _, places = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(places, values), np.bincount(places).astype(float)
    draw = np.random.default_rng(seed)
    means = np.empty(resamples)
    for number in range(resamples):
        counts = np.bincount(draw.integers(len(sums), size=len(sums)), minlength=len(sums))
        means[number] = counts @ sums / (counts @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def mcnemar(worse: int, better: int) -> float:
    """Exact two-sided p of "as many got worse as better" among the pairs that changed.

    ``min(1, 2 P(X <= min(worse, better)))`` with X binomial of ``worse + better`` trials at 1/2. McNemar 1947
    (Psychometrika 12). Raises ``ValueError`` for negative counts.
    """
    require(min(worse, better) >= 0, "worse, better", (worse, better), "integers >= 0")
    n = worse + better
    tail = sum(comb(n, k) for k in range(min(worse, better) + 1))
    return min(1.0, 2 * tail / 2**n)
