"""Precision, recall, density and coverage: are samples realistic, and is all of the data reached?

Kynkäänniemi et al. 2019 (arXiv:1904.06991) for precision and recall, Naeem et al. 2020
(arXiv:2002.09797) for density and coverage. Each set is covered by balls B(x, r_k(x)), r_k the distance
to the k-th nearest neighbour within the set. Distances take memory for one block, not n^2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from diffax.checks import require
from diffax.evaluation.distances import (
    Vectors,
    as_vectors,
    blocks,
    check_same_width,
    kth_distance,
    squared_distances,
)


class Prdc(NamedTuple):
    """All are shares in [0, 1] but density, which may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Vectors, fake: Vectors, *, k: int = 5) -> Prdc:
    """The four measures of fake against real features, (n_real, d) and (n_fake, d).

    * precision: share of fake samples inside some ball of real ones;
    * recall: share of real samples inside some ball of fake ones;
    * density: ``(1 / (k n_fake)) sum_{i,j} [fake_j in ball of real_i]``;
    * coverage: share of real samples whose own ball holds a fake one.

    Balls are open, as in the code of Naeem et al.: for one set against itself all four are 1. Raises
    ``ValueError`` for k < 1 or k not below both numbers of samples.
    """
    x, y = as_vectors("real", real), as_vectors("fake", fake)
    check_same_width("real", x, "fake", y)
    allowed = f"1 .. {min(len(x), len(y)) - 1}, below n_real={len(x)} and n_fake={len(y)}"
    require(1 <= k < min(len(x), len(y)), "k", k, allowed)
    balls_of_real, nearest = _balls(x, y, kth_distance(x, k))
    balls_of_fake, _ = _balls(y, x, kth_distance(y, k))
    return Prdc(
        precision=float((balls_of_real > 0).mean()),
        recall=float((balls_of_fake > 0).mean()),
        density=float(balls_of_real.mean() / k),
        coverage=float(nearest.mean()),
    )


def _balls(
    centres: Float[np.ndarray, "n d"], points: Float[np.ndarray, "m d"], radius: Float[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "n"]]:
    """In how many balls each point lies, and whether each ball holds a point."""
    count, hit = np.zeros(len(points), np.int64), np.zeros(len(centres), bool)
    for rows in blocks(len(centres), len(points)):
        inside = squared_distances(centres[rows], points) < radius[rows, None]
        count += inside.sum(0)
        hit[rows] = inside.any(1)
    return count, hit
