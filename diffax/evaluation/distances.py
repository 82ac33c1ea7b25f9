"""Distances between two large sets of vectors, a block of rows at a time."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Float, Shaped

from diffax.checks import require

Vectors = Float[np.ndarray | Array, "_ _"]  # (n, d): features of n items, float32 or float64
_BLOCK_BYTES = 2**26


def as_vectors(field: str, x: Shaped[np.ndarray | Array, "..."]) -> Float[np.ndarray, "n d"]:
    """The rows as float64; each item is flattened. Raises ``ValueError`` for none, or values not finite."""
    rows = np.asarray(x, np.float64)
    require(rows.ndim >= 2 and rows.size > 0, f"{field}: shape", rows.shape, "(n, d, ...) with n >= 1")
    finite = np.isfinite(rows)
    require(bool(finite.all()), field, None if finite.all() else rows[~finite][0].item(), "finite values")
    return rows.reshape(len(rows), -1)


def check_same_width(a_field: str, a: np.ndarray, b_field: str, b: np.ndarray) -> None:
    """Raise ``ValueError`` unless both sets have vectors of the same length."""
    allowed = f"{a.shape[1]}, as {a_field}"
    require(a.shape[1] == b.shape[1], f"{b_field}: values per item", b.shape[1], allowed)


def squared_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """``|a_i - b_j|^2`` as ``|a|^2 + |b|^2 - 2 a.b`` in float64, never negative.

    Equal vectors come out as about 1e-16 of their squared norm rather than exactly 0.
    """
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.maximum(squares, 0)


def blocks(n: int, columns: int) -> Iterator[slice]:
    """Slices of 0 .. n-1 such that a float64 block (rows, columns) takes at most 64 MiB."""
    rows = max(1, _BLOCK_BYTES // (8 * max(columns, 1)))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def kth_distance(x: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "n"]:
    """The squared distance from each vector to its k-th nearest neighbour in its own set, itself left out."""
    radius = np.empty(len(x))
    for rows in blocks(len(x), len(x)):
        distances = squared_distances(x[rows], x)
        distances[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = np.inf
        radius[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radius
