"""What generated images are compared with: real images of both splits, in the features of one network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffax import data
from diffax.evaluation import (
    Classifier,
    FeatureExtractor,
    copy_check,
    extract,
    frechet_distance,
    inception_features,
    kernel_distance,
    load_classifier,
    prdc,
    random_features,
    save_classifier,
    train_classifier,
)
from experiments import build

HELD_OUT = "test"


class Reference(NamedTuple):
    """Real images, and the features they are compared in. ``classifier`` is None for data without labels."""

    classifier: Classifier | None
    extractor: FeatureExtractor
    train: data.Batch
    held_out: data.Batch
    held_out_features: np.ndarray


def make_reference(
    config: Mapping[str, Any],
    folder: Path,
    *,
    labelled: bool,
    seed: int,
    steps: int,
    inception: str = "",
    limit: int | None = None,
) -> Reference:
    """Both splits of ``config`` (as of ``config.data``), up to ``limit`` images of each.

    Features are Inception's, where the path of a file of its weights is given; else those of a classifier
    that is trained for ``steps`` steps on ``labelled`` data and kept in the folder; else those of a fixed
    random network.
    """
    train, held_out = (build.open_source(config, split) for split in ("train", HELD_OUT))
    real = data.stack_items(held_out, limit)
    trained = labelled and "label" in real
    classifier = _classifier(train, held_out, folder / "classifier.npz", seed, steps) if trained else None
    extractor = _extractor(classifier, inception, real["image"].shape[-1])
    return Reference(
        classifier, extractor, data.stack_items(train, limit), real, extract(extractor, real["image"])
    )


def quality(images: np.ndarray, reference: Reference) -> dict[str, float]:
    """Distances, fidelity and diversity of images in [-1, 1], and the check for copies."""
    features = extract(reference.extractor, images)
    found = prdc(reference.held_out_features, features)
    copies = copy_check(images, reference.train["image"], reference.held_out["image"])
    size = min(len(features), len(reference.held_out_features)) // 2
    kernel = kernel_distance(reference.held_out_features, features, subset_size=size)
    return {
        "frechet": frechet_distance(reference.held_out_features, features),
        "kid": kernel.value,
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "coverage": found.coverage,
        "copy_median_ratio": copies.median_ratio,
        "copy_closer_share": copies.closer_share,
        "copy_duplicates": copies.duplicates,
    }


def _extractor(classifier: Classifier | None, inception: str, channels: int) -> FeatureExtractor:
    if inception:
        return inception_features(inception)
    return classifier.extractor if classifier else random_features(channels)


def _classifier(train: data.Source, held_out: data.Source, path: Path, seed: int, steps: int) -> Classifier:
    """Trained once, then kept in the workdir."""
    if path.exists():
        return load_classifier(path)
    classifier = train_classifier(train, held_out, seed=seed, steps=steps)
    save_classifier(path, classifier)
    return classifier
