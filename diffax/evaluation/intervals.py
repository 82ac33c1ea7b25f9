"""How far a mean over cases could be off: intervals by resampling the cases."""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int, Shaped

from diffax.checks import require

_BLOCK = 1 << 22  # drawn indices at a time


class Interval(NamedTuple):
    """A mean over cases, and the interval that would hold the population's at the level asked for."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Shaped[np.ndarray | Array, "n"], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean: quantiles ``(1 -+ level) / 2`` of means of n cases drawn anew.

    The same interval for the same values and seed. Cases must be independent (patients, not their slices);
    from fewer than about 20 it is too narrow, by ``sqrt((n - 1) / n)`` and more. One case gives an interval
    of no width. Efron 1979 (Annals of Statistics 7).

    Raises ``ValueError`` for no value, values that are not finite, or a level outside (0, 1).
    """
    cases = np.asarray(values, np.float64)
    require(len(cases) > 0 and bool(np.isfinite(cases).all()), "values", cases.shape, "finite, n >= 1")
    require(0 < level < 1, "level", level, "(0, 1)")
    require(resamples >= 1, "resamples", resamples, "an integer >= 1")
    draw, rows = np.random.default_rng(seed), max(1, _BLOCK // len(cases))
    means = np.concatenate(
        [
            cases[draw.integers(len(cases), size=(min(rows, resamples - start), len(cases)))].mean(1)
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(cases.mean()), float(low), float(high))


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Of a share of successes in n independent trials, by the score test.

    ``(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)`` with the normal quantile z. Never
    without width, unlike a bootstrap of trials that all succeed. Wilson 1927 (J. Am. Stat. Assoc. 22).
    Raises ``ValueError`` unless ``0 <= successes <= n`` and ``n >= 1``.
    """
    require(n >= 1, "n", n, "an integer >= 1")
    require(0 <= successes <= n, "successes", successes, f"0 to n = {n}")
    require(0 < level < 1, "level", level, "(0, 1)")
    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / n
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return Interval(p, max(0.0, low), min(1.0, high))  # rounding may leave the range at 0 and n


def bootstrap_statistic(
    statistic: Callable[[Int[np.ndarray, "n"]], float],
    n: int,
    *,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """The same for a figure of all cases together, such as an area under a curve of their pooled pixels.

    ``statistic(indices)`` measures the cases with the given indices, some of them several times; resamples
    for which it is not finite, or raises ``ValueError`` (cases of one class), are left out. ``mean`` is the
    figure of all cases, once each. Raises ``ValueError`` as :func:`bootstrap_interval`.
    """
    require(n >= 1, "n", n, "an integer >= 1")
    require(0 < level < 1, "level", level, "(0, 1)")
    draw, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        try:
            found.append(float(statistic(draw.integers(n, size=n))))
        except ValueError:
            continue
    finite = np.asarray([value for value in found if np.isfinite(value)] or [np.nan])
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(np.arange(n))), float(low), float(high))
