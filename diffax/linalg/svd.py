r"""Products of matrices by products of narrower ones, best for inputs with a known second moment.

    min_{A, B} E |x W - x A B|^2,  rank r:    R^T R = C,  U S V^T = svd(R W),  A = R^-1 U_r,  B = S_r V_r^T

The error is the sum of the squares of the singular values left out. For values and outputs of attention,
``W = W_v W_o``, only the second moment of the values is needed, of a head's size (:func:`value_output`).
Sources: Lin et al. 2025 (arXiv:2408.09632), algorithm 3; Wang et al. 2024 (arXiv:2403.07378).
"""

import numpy as np
from jaxtyping import Float

from diffax.checks import require


def value_output(
    c: Float[np.ndarray, "h h"], w_v: Float[np.ndarray, "d h"], w_o: Float[np.ndarray, "h o"], rank: int
) -> tuple[Float[np.ndarray, "d r"], Float[np.ndarray, "r o"]]:
    """Values and outputs of one head of values, of fewer numbers: the best for ``E[v^T v] = c``.

    Heads of queries that share the values have their outputs side by side in ``w_o``: the joint optimum of
    all of them. The whole rank gives the matrices back as they are.
    """
    _check_rank(rank, len(c))
    if rank == len(c):
        return w_v, w_o
    root, inverse = square_root(c)
    left, values, right = _svd(root @ w_o)
    return w_v @ (inverse @ left[:, :rank]), values[:rank, None] * right[:rank]


def output_given_values(
    c: Float[np.ndarray, "h h"], w_v: Float[np.ndarray, "d h"], w_o: Float[np.ndarray, "h o"], rank: int
) -> tuple[Float[np.ndarray, "d r"], Float[np.ndarray, "r o"]]:
    """The same by the values alone, whatever the outputs read of them; public code does so where heads share
    values. Never better than :func:`value_output`."""
    _check_rank(rank, len(c))
    if rank == len(c):
        return w_v, w_o
    values, vectors = np.linalg.eigh(c)
    kept = vectors[:, np.argsort(-values)[:rank]]
    return w_v @ kept, kept.T @ w_o


def low_rank(
    c: Float[np.ndarray, "n n"], w: Float[np.ndarray, "n m"], rank: int
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r m"]]:
    """A matrix as two narrow ones, the best for inputs of second moment ``c``; the identity: plain SVD."""
    _check_rank(rank, min(w.shape))
    root, inverse = square_root(c)
    left, values, right = _svd(root @ w)
    return inverse @ left[:, :rank], values[:rank, None] * right[:rank]


def principal_axes(c: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Eigenvectors as columns, those of the largest second moment first."""
    return np.linalg.eigh(c)[1][:, ::-1]


def square_root(c: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """R with ``R^T R = c``, and its inverse; of a singular ``c`` the pseudo-inverse."""
    values, vectors = np.linalg.eigh(c)
    kept = values > len(c) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    roots = np.sqrt(np.where(kept, values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=kept)
    return roots[:, None] * vectors.T, vectors * inverse


def _svd(a: Float[np.ndarray, "n m"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, values, right = np.linalg.svd(a, full_matrices=False)
    return left, values, right


def _check_rank(rank: int, most: int) -> None:
    require(1 <= rank <= most, "rank", rank, f"1 .. {most}")
