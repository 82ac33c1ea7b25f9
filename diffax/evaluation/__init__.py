"""Evaluation: how good samples are, how many of the data's modes they reach, and whether they are copies;
how well models of language predict text.

Typical use: extract features of real and generated images with one extractor, compare them by
``frechet_distance`` beside its ``frechet_floor``, and write ``Figure``s that say what they were measured on.
"""

from diffax.evaluation.choices import (
    ChoiceScore,
    Item,
    Likelihood,
    evaluate_choices,
    log_likelihoods,
    read_items,
)
from diffax.evaluation.classifier import Classifier, load_classifier, save_classifier, train_classifier
from diffax.evaluation.features import FeatureExtractor, extract, map_batches, random_features
from diffax.evaluation.frechet import (
    GaussianStats,
    frechet_between,
    frechet_distance,
    frechet_floor,
    gaussian_stats,
    merge_stats,
    stream_stats,
)
from diffax.evaluation.harness import HarnessModel, as_harness_model
from diffax.evaluation.image import nmse, psnr, ssim
from diffax.evaluation.inception import inception_features
from diffax.evaluation.intervals import Interval, bootstrap_interval, bootstrap_statistic, wilson_interval
from diffax.evaluation.kid import KernelDistance, kernel_distance
from diffax.evaluation.modes import ModeCoverage, classifier_modes, mixture_modes, stacked_modes
from diffax.evaluation.nearest import CopyCheck, copy_check
from diffax.evaluation.prdc import Prdc, prdc
from diffax.evaluation.result import Figure, Result, merge, read_result, write_result
from diffax.evaluation.segmentation import (
    BestDice,
    Calibration,
    auroc,
    average_precision,
    best_dice,
    calibration_curve,
    calibration_error,
    dice,
    generalized_energy_distance,
    iou,
)
from diffax.evaluation.text import Divergence, Perplexity, decoder_logits, kl_divergence, nll, perplexity

__all__ = [
    "BestDice",
    "Calibration",
    "ChoiceScore",
    "Classifier",
    "CopyCheck",
    "Divergence",
    "FeatureExtractor",
    "Figure",
    "GaussianStats",
    "HarnessModel",
    "Interval",
    "Item",
    "KernelDistance",
    "Likelihood",
    "ModeCoverage",
    "Perplexity",
    "Prdc",
    "Result",
    "as_harness_model",
    "auroc",
    "average_precision",
    "best_dice",
    "bootstrap_interval",
    "bootstrap_statistic",
    "calibration_curve",
    "calibration_error",
    "classifier_modes",
    "copy_check",
    "decoder_logits",
    "dice",
    "evaluate_choices",
    "extract",
    "frechet_between",
    "frechet_distance",
    "frechet_floor",
    "gaussian_stats",
    "generalized_energy_distance",
    "inception_features",
    "iou",
    "kernel_distance",
    "kl_divergence",
    "load_classifier",
    "log_likelihoods",
    "map_batches",
    "merge",
    "merge_stats",
    "mixture_modes",
    "nll",
    "nmse",
    "perplexity",
    "prdc",
    "psnr",
    "random_features",
    "read_items",
    "read_result",
    "save_classifier",
    "ssim",
    "stacked_modes",
    "stream_stats",
    "train_classifier",
    "wilson_interval",
    "write_result",
]
