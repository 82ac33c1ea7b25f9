r"""Fewer hidden units of a perceptron, and the second matrix that makes the best of them.

    min_W E |z A - z_J W|^2 + ridge m |W - A_J|^2   =>   (C_JJ + ridge m I) W = C_J A + ridge m A_J

C is the second moment of the hidden units z, m the mean of its diagonal. Units are chosen by leverage. With
``ridge=0`` W is the least-squares solution of algorithm 1 of Lin et al. 2025 (arXiv:2408.09632); the ridge
keeps it near the units' own rows of A where there are fewer observations than units.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from diffax.checks import require


def leverage_scores(c: Float[np.ndarray, "n n"], ridge: float = 1e-2) -> Float[np.ndarray, "n"]:
    """Diagonal of ``C (C + ridge m I)^-1``, in [0, 1].

    A large ridge ranks by energy; without one every unit of an invertible C scores 1.
    """
    require(ridge > 0, "ridge", ridge, "a number > 0")
    weight = ridge * mean_diagonal(c)
    inverse = scipy.linalg.inv(c + weight * np.eye(len(c)), assume_a="pos", check_finite=False)
    return 1 - weight * np.diag(inverse)


def reconstruct(
    c: Float[np.ndarray, "n n"],
    chosen: Int[np.ndarray, "k"],
    a: Float[np.ndarray, "n d"],
    ridge: float = 1e-2,
) -> Float[np.ndarray, "k d"]:
    """The matrix that follows the chosen units in place of ``a``; all of them: ``a`` itself."""
    if len(chosen) == len(c):
        return a[chosen]
    weight = ridge * mean_diagonal(c)
    left = c[np.ix_(chosen, chosen)] + weight * np.eye(len(chosen))
    return solve(left, c[chosen] @ a + weight * a[chosen])


def reconstruct_affine(
    c: Float[np.ndarray, "n n"],
    mean: Float[np.ndarray, "n"],
    chosen: Int[np.ndarray, "k"],
    a: Float[np.ndarray, "n d"],
    ridge: float = 1e-2,
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, "d"]]:
    """The same around the mean of the units, and what to add to the bias: never worse where there is one."""
    found = reconstruct(c - np.outer(mean, mean), chosen, a, ridge)
    return found, mean @ a - mean[chosen] @ found


def solve(left: Float[np.ndarray, "k k"], right: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k d"]:
    """``left^-1 right`` of a symmetric matrix without negative eigenvalues; of a singular one the
    pseudo-inverse."""
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(left, check_finite=False), right)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(left)
        kept = values > len(left) * np.finfo(np.float64).eps * max(values[-1], 0.0)
        return vectors[:, kept] @ ((vectors[:, kept].T @ right) / values[kept, None])


def mean_diagonal(c: Float[np.ndarray, "n n"]) -> float:
    """Energy of a unit on average; 1 where nothing ever happened."""
    return float(np.mean(np.diag(c))) or 1.0
