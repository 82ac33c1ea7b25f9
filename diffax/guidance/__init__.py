"""Transforms of denoisers: guidance, thresholding, and windows of large images and volumes."""

from diffax.guidance.sliding_window import over_windows, sliding_window
from diffax.guidance.threshold import dynamic_threshold, static_threshold
from diffax.guidance.transforms import autoguidance, classifier, classifier_free, compose, interval

__all__ = [
    "autoguidance",
    "classifier",
    "classifier_free",
    "compose",
    "dynamic_threshold",
    "interval",
    "over_windows",
    "sliding_window",
    "static_threshold",
]
