"""Training losses."""

from diffax.losses import adversarial, distribution_matching, divergences, weighting
from diffax.losses.denoising import DenoisingLoss, denoising_loss, drop_labels, score_matching_loss

__all__ = [
    "DenoisingLoss",
    "adversarial",
    "denoising_loss",
    "distribution_matching",
    "divergences",
    "drop_labels",
    "score_matching_loss",
    "weighting",
]
