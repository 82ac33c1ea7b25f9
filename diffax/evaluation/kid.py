"""The kernel distance: an unbiased estimate of how far two sets of features are apart."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffax.checks import require
from diffax.evaluation.distances import Vectors, as_vectors, check_same_width


class KernelDistance(NamedTuple):
    """The mean over subsets, and its standard error."""

    value: float
    std_error: float


def mmd2(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The unbiased squared maximum mean discrepancy under ``k(a, b) = (a.b / d + 1)^3``.

    ``mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j)``: 0 on average, so
    sometimes negative, for samples of one distribution. Gretton et al. 2012 (JMLR 13), equation 3.
    """
    kxx, kyy, kxy = (_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within_x = (kxx.sum() - np.trace(kxx)) / (n * (n - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * kxy.mean())


def kernel_distance(
    real: Vectors, fake: Vectors, *, subset_size: int = 1000, subsets: int = 100, seed: int = 0
) -> KernelDistance:
    """KID: the mean of ``mmd2`` over random subsets. Binkowski et al. 2018 (arXiv:1801.01401), section 3.

    The standard error is ``std / sqrt(min(subsets, n_real // subset_size, n_fake // subset_size))``:
    subsets share samples, and no more of them are independent than fit side by side. So it is an honest
    bound only if ``subset_size`` is well below both numbers of samples.

    Raises ``ValueError`` for a subset size below 2 or above the smaller set, or fewer than 2 subsets.
    """
    x, y = as_vectors("real", real), as_vectors("fake", fake)
    check_same_width("real", x, "fake", y)
    smaller = min(len(x), len(y))
    allowed = f"2 .. {smaller}, the smaller of n_real={len(x)} and n_fake={len(y)}"
    require(2 <= subset_size <= smaller, "subset_size", subset_size, allowed)
    require(subsets >= 2, "subsets", subsets, "at least 2")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        i = rng.choice(len(x), subset_size, replace=False)
        j = rng.choice(len(y), subset_size, replace=False)
        values.append(mmd2(x[i], y[j]))
    independent = min(subsets, smaller // subset_size)
    return KernelDistance(float(np.mean(values)), float(np.std(values, ddof=1) / independent**0.5))


def _kernel(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return (a @ b.T / a.shape[1] + 1) ** 3
