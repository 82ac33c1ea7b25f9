"""Which modes of the data do samples reach, and how evenly: by a classifier, or of a known mixture.

A sample counts for a mode only if it is a credible member of it: its class probability passes a gate, or
it lies within a few standard deviations. Without such a gate even noise "covers" classes, because a
classifier assigns every input to one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from diffax.checks import require

_Probabilities = Float[np.ndarray | Array, "n k"]


class ModeCoverage(NamedTuple):
    """How samples fall into k modes.

    Attributes:
      modes: number of modes with at least ``min_count`` accepted samples.
      high_quality: share of samples accepted for some mode.
      kl: KL(accepted samples || reference) over modes, in nats; inf if nothing is accepted.
      total_variation: ``(1/2) (sum_c |q_c - p_c| + rejected share)``, q_c the share of all samples that is
        accepted for mode c, p_c the reference: a rejected sample lies in no mode of the reference.
      histogram: q_c; sums to ``high_quality``.
    """

    modes: int
    high_quality: float
    kl: float
    total_variation: float
    histogram: Float[np.ndarray, "k"]


def classifier_modes(
    probabilities: _Probabilities,
    reference: Float[np.ndarray | Array, "_"] | Integer[np.ndarray | Array, "_"],
    *,
    gate: float = 0.5,
    min_count: int = 1,
) -> ModeCoverage:
    """Coverage of classes: a sample counts for its most probable class if that probability is >= gate.

    ``probabilities`` are a classifier's (n, k), rows that sum to 1; ``reference`` the real data's
    histogram of classes, counts or shares. The gate means something only if the classifier doubts what is
    no data, as the one of ``train_classifier`` does: see what share of held-out images passes.

    Raises ``ValueError`` for rows that are no distributions, a gate outside (0, 1], or an empty reference.
    """
    p = _check_probabilities(np.asarray(probabilities, np.float64), gate)
    return _coverage(p.argmax(1), p.max(1) >= gate, np.asarray(reference), min_count)


def stacked_modes(
    probabilities: Float[np.ndarray | Array, "n c k"], *, gate: float = 0.9, min_count: int = 1
) -> ModeCoverage:
    """Coverage of the k^c modes of stacked images, all equally likely, each of whose c channels has a class.

    A sample counts for the mode of its channels' most probable classes if every one of those probabilities
    is >= gate. The KL divergence of N exact samples is about ``(k^c - 1) / (2 N)``, not 0: it means something
    only beside its N. Metz et al. 2017 (arXiv:1611.02163), appendix D, where nothing is gated.

    Raises ``ValueError`` as :func:`classifier_modes`.
    """
    n, channels, classes = probabilities.shape
    flat = _check_probabilities(np.asarray(probabilities, np.float64).reshape(-1, classes), gate)
    best = flat.reshape(n, channels, classes)
    places = classes ** np.arange(channels)[::-1]
    accepted = (best.max(-1) >= gate).all(axis=1)
    return _coverage(best.argmax(-1) @ places, accepted, np.ones(classes**channels), min_count)


def mixture_modes(
    samples: Float[np.ndarray | Array, "n d"],
    weights: Float[np.ndarray | Array, "k"],
    means: Float[np.ndarray | Array, "k d"],
    covs: Float[np.ndarray | Array, "k d d"],
    *,
    within: float = 3.0,
    min_count: int = 1,
) -> ModeCoverage:
    """Coverage of a known Gaussian mixture: a sample counts for its mode within ``within`` deviations.

    Nearness is Mahalanobis': ``(x - m)^T S^-1 (x - m) <= within^2``. Of exact samples in the plane the share
    ``1 - exp(-within^2 / 2)`` (0.989 for 3) is accepted where modes are far apart. Raises ``ValueError``
    for samples that are not finite or ``within`` that is not positive.
    """
    x = np.asarray(samples, np.float64)
    require(bool(np.isfinite(x).all()) and len(x) > 0, "samples", x.shape, "finite values, n >= 1")
    require(within > 0, "within", within, "positive")
    offset = x[:, None] - np.asarray(means, np.float64)
    precision = np.linalg.inv(np.asarray(covs, np.float64))
    squares = np.einsum("nki,kij,nkj->nk", offset, precision, offset)
    return _coverage(squares.argmin(1), squares.min(1) <= within**2, np.asarray(weights), min_count)


def _check_probabilities(p: Float[np.ndarray, "n k"], gate: float) -> Float[np.ndarray, "n k"]:
    require(len(p) > 0, "probabilities: shape", p.shape, "(n, k) with n >= 1")
    sums = p.sum(1)
    valid = bool(np.isfinite(p).all() and (p >= 0).all() and np.allclose(sums, 1, atol=1e-3))
    require(valid, "probabilities: sum of a row", sums[np.argmax(np.abs(sums - 1))].item(), "1, all >= 0")
    require(0 < gate <= 1, "gate", gate, "(0, 1]")
    return p


def _coverage(
    mode: Int[np.ndarray, "n"], accepted: Bool[np.ndarray, "n"], reference: np.ndarray, min_count: int
) -> ModeCoverage:
    require(min_count >= 1, "min_count", min_count, "at least 1")
    valid = bool((reference >= 0).all() and reference.sum() > 0)
    require(valid, "reference", reference.tolist(), "counts or shares >= 0, not all 0")
    p = reference / reference.sum()
    least = int(mode.max()) + 1
    require(least <= len(p), "reference: modes", len(p), f"at least {least}, as the samples' modes")
    counts = np.bincount(mode[accepted], minlength=len(p))
    q = counts / len(mode)
    share = float(accepted.mean())
    return ModeCoverage(
        modes=int((counts >= min_count).sum()),
        high_quality=share,
        kl=_kl(q / share, p) if share > 0 else float("inf"),
        total_variation=float((np.abs(q - p).sum() + 1 - share) / 2),
        histogram=q,
    )


def _kl(q: Float[np.ndarray, "k"], p: Float[np.ndarray, "k"]) -> float:
    held = q > 0
    if (p[held] == 0).any():
        return float("inf")
    return float((q[held] * np.log(q[held] / p[held])).sum())
