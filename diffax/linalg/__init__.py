"""Decompositions that replace pairs of matrices by narrower ones, for inputs of known second moments.

All in float64 on the host, with vectors as rows: a map is ``x W``, and ``C = E[x^T x]`` a second moment.
"""

from diffax.linalg.covariance import Moments
from diffax.linalg.cr import choose, dimension_scores, pair_scores
from diffax.linalg.nystrom import leverage_scores, mean_diagonal, reconstruct, reconstruct_affine
from diffax.linalg.svd import low_rank, output_given_values, principal_axes, value_output

__all__ = [
    "Moments",
    "choose",
    "dimension_scores",
    "leverage_scores",
    "low_rank",
    "mean_diagonal",
    "output_given_values",
    "pair_scores",
    "principal_axes",
    "reconstruct",
    "reconstruct_affine",
    "value_output",
]
