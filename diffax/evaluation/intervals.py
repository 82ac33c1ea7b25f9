"""How far a mean over cases could be off: intervals by resampling the cases."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Shaped

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
