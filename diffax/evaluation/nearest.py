"""Has the model copied its training images? Distances to the nearest one, beside held-out images' own.

A distance alone says nothing: real images that the model never saw are the yardstick. Carlini et al. 2023
(arXiv:2301.13188) and Meehan et al. 2020 (arXiv:2004.05675) compare in this way.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from diffax.checks import require
from diffax.evaluation.distances import as_vectors, blocks, check_same_width, squared_distances

_Set = Shaped[np.ndarray | Array, "..."]


class CopyCheck(NamedTuple):
    """Distances to the nearest training item, of generated and of held-out items.

    Attributes:
      median_ratio: median generated distance / median held-out distance; well below 1 speaks of copies.
      closer_share: share of generated items closer than the given percentile of held-out distances; for
        new samples about percentile / 100.
      duplicates: number of generated items whose nearest training item is equal, up to the tolerance.
      distance: Euclidean, of each generated item to its nearest training item.
      neighbour: which training item that is, to look at the pair.
    """

    median_ratio: float
    closer_share: float
    duplicates: int
    distance: Float[np.ndarray, "n"]
    neighbour: Int[np.ndarray, "n"]


def copy_check(
    generated: _Set, train: _Set, held_out: _Set, *, percentile: float = 5.0, tolerance: float = 0.0
) -> CopyCheck:
    """Compare generated-to-train with held-out-to-train distances, of images or of their features.

    ``tolerance`` is the largest absolute difference of any value at which two items count as duplicates:
    0 for exact copies, 1/255 for copies of 8-bit images in [-1, 1] up to rounding. Raises ``ValueError``
    for sets of unequal item sizes, or a percentile outside (0, 100).
    """
    new, old, held = (
        as_vectors(f, x) for f, x in (("generated", generated), ("train", train), ("held_out", held_out))
    )
    check_same_width("train", old, "generated", new)
    check_same_width("train", old, "held_out", held)
    require(0 < percentile < 100, "percentile", percentile, "(0, 100)")
    require(tolerance >= 0, "tolerance", tolerance, "at least 0")
    distance, index = nearest(new, old)
    held_distance, _ = nearest(held, old)
    largest = np.abs(new - old[index]).max(1)
    median = float(np.median(held_distance))
    return CopyCheck(
        median_ratio=float(np.median(distance)) / median if median > 0 else float("inf"),
        closer_share=float((distance < np.percentile(held_distance, percentile)).mean()),
        duplicates=int((largest <= tolerance).sum()),
        distance=distance,
        neighbour=index,
    )


def nearest(
    points: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Euclidean distance to, and index of, the nearest of ``others`` for each point; a block at a time."""
    index = np.empty(len(points), np.int64)
    for rows in blocks(len(points), len(others)):
        index[rows] = squared_distances(points[rows], others).argmin(1)
    # once more, exactly: the fast formula does not return 0 for equal vectors
    return np.linalg.norm(points - others[index], axis=1), index
