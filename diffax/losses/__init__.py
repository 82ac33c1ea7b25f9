"""Training losses."""

from diffax.losses import adversarial, weighting
from diffax.losses.denoising import DenoisingLoss, denoising_loss, drop_labels, score_matching_loss

__all__ = [
    "DenoisingLoss",
    "adversarial",
    "denoising_loss",
    "drop_labels",
    "score_matching_loss",
    "weighting",
]
