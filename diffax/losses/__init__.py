"""Training losses."""

from diffax.losses import weighting
from diffax.losses.denoising import DenoisingLoss, denoising_loss, drop_labels, score_matching_loss

__all__ = ["DenoisingLoss", "denoising_loss", "drop_labels", "score_matching_loss", "weighting"]
