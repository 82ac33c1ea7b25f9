r"""Which numbers of queries and keys are kept: a product of matrices by some of its terms.

    q k^T = sum_i q_i k_i,    E (error of leaving i out)^2 = E[q_i^2] E[k_i^2]

The square root of a second moment has columns of length ``sqrt(C_ii)``, so that diagonals are all that is
needed (Lin et al. 2025, arXiv:2408.09632, algorithm 2, ranks by the square root of the same). A softmax over
keys does not see what is the same for all of them: give the keys' variances, and numbers that only move all
products alike score nothing. Rotations mix the two numbers of a pair by an angle that depends on the
position: pairs are kept whole, and scored by what no rotation changes.
"""

import numpy as np
from jaxtyping import Float, Int

from diffax.checks import require


def dimension_scores(
    queries: Float[np.ndarray, "*g h"], keys: Float[np.ndarray, "h"]
) -> Float[np.ndarray, "h"]:
    """``E[q_i^2] E[k_i^2]`` from diagonals of second moments, summed over heads that share the keys."""
    return (queries * keys).reshape(-1, keys.size).sum(axis=0)


def pair_scores(queries: Float[np.ndarray, "*g h"], keys: Float[np.ndarray, "h"]) -> Float[np.ndarray, "p"]:
    """``(E[q_i^2] + E[q_j^2]) (E[k_i^2] + E[k_j^2])``, j = i + h/2: the same before and after rotation.

    Summed over heads that share the keys.
    """
    pairs = lambda values: values.reshape(*values.shape[:-1], 2, -1).sum(axis=-2)  # noqa: E731
    return dimension_scores(pairs(queries), pairs(keys))


def choose(scores: Float[np.ndarray, "n"], count: int) -> Int[np.ndarray, "k"]:
    """The numbers of the ``count`` largest, in increasing order; of equal ones the first."""
    require(0 < count <= scores.size, "count", count, f"1 .. {scores.size}")
    return np.sort(np.argsort(-scores, kind="stable")[:count])
