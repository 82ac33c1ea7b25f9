"""The Fréchet distance between two sets of features, each summarised as a Gaussian, in float64.

Heusel et al. 2017 (arXiv:1706.08500), equation 6; Dowson and Landau 1982 for the closed form. With an
Inception network's features it is called FID. Its value depends on the extractor, on the number of
samples (it is biased upwards) and on the split, so report those with it: see ``result.py``; and report
``frechet_floor``, what real data scores against real data.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.evaluation.distances import Vectors, as_vectors


class GaussianStats(NamedTuple):
    """Number of samples, mean, and the sum of squared deviations ``sum (x - mean)(x - mean)^T``."""

    n: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]

    @property
    def cov(self) -> Float[np.ndarray, "d d"]:
        """The unbiased covariance, ``scatter / (n - 1)``."""
        return self.scatter / (self.n - 1)


def gaussian_stats(features: Vectors) -> GaussianStats:
    """Mean and covariance of one batch of features (n, d), n >= 1; join batches with ``merge_stats``."""
    x = as_vectors("features", features)
    centred = x - x.mean(0)
    return GaussianStats(len(x), x.mean(0), centred.T @ centred)


def merge_stats(a: GaussianStats, b: GaussianStats) -> GaussianStats:
    """The statistics of both sets together, exact and without cancellation (Chan et al. 1979)."""
    require(a.mean.shape == b.mean.shape, "feature size", b.mean.shape, str(a.mean.shape))
    n, shift = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(shift, shift) * (a.n * b.n / n)
    return GaussianStats(n, a.mean + shift * (b.n / n), scatter)


def stream_stats(batches: Iterable[Float[np.ndarray | Array, "_ d"]]) -> GaussianStats:
    """Statistics over batches that need not fit into memory together. Raises ``ValueError`` for none."""
    total: GaussianStats | None = None
    for batch in batches:
        part = gaussian_stats(batch)
        total = part if total is None else merge_stats(total, part)
    require(total is not None, "batches", 0, "at least one batch")
    assert total is not None
    return total


def frechet_between(real: GaussianStats, fake: GaussianStats) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``, at least 0 up to rounding.

    The trace of the root is ``sum sqrt(eig(R S2 R))`` with ``R = S1^(1/2)``, a symmetric positive
    semi-definite matrix: no complex parts appear, and singular covariances are allowed. Raises
    ``ValueError`` when a set has no more samples than features: its covariance is then singular and
    the distance is dominated by what was not sampled.
    """
    require(real.mean.shape == fake.mean.shape, "feature size of fake", fake.mean.shape, str(real.mean.shape))
    d = len(real.mean)
    for field, stats in (("n_real", real), ("n_fake", fake)):
        require(stats.n > d, field, stats.n, f"at least {d + 1} samples for {d} features")
    root = _psd_root(real.cov)
    eigenvalues = np.linalg.eigvalsh(root @ fake.cov @ root)
    overlap = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    shift = real.mean - fake.mean
    return float(shift @ shift + np.trace(real.cov) + np.trace(fake.cov) - 2 * overlap)


def frechet_distance(real: Vectors, fake: Vectors) -> float:
    """``frechet_between`` of two arrays of features (n_real, d) and (n_fake, d), in units of features^2."""
    return frechet_between(gaussian_stats(real), gaussian_stats(fake))


def frechet_floor(real: Vectors, n: int | None = None, seed: int = 0) -> float:
    """What two disjoint random subsets of n real samples (default: halves) score: the best to hope for.

    Raises ``ValueError`` for subsets that do not fit, or have no more samples than features.
    """
    x = as_vectors("real", real)
    size = len(x) // 2 if n is None else n
    require(1 <= size <= len(x) // 2, "n", size, f"1 .. {len(x) // 2}, half of the real samples")
    order = np.random.default_rng(seed).permutation(len(x))
    return frechet_distance(x[order[:size]], x[order[size : 2 * size]])


def _psd_root(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    eigenvalues, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T
