"""Transforms of denoisers: guidance and thresholding."""

from diffax.guidance.threshold import dynamic_threshold, static_threshold
from diffax.guidance.transforms import autoguidance, classifier, classifier_free, compose, interval

__all__ = [
    "autoguidance",
    "classifier",
    "classifier_free",
    "compose",
    "dynamic_threshold",
    "interval",
    "static_threshold",
]
