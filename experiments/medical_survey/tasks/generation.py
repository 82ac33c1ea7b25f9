"""Generation of images of a class: how near they are to real ones, whether they are what was asked for, and
new.

Classifier-free guidance at several scales (Ho & Salimans 2022); the Fréchet distance in the features of a
fixed random network, of real images against real ones as the floor and of a Gaussian fit as the bar to beat;
samples' nearest training images against those of held-out images (Carlini et al. 2023 ask for copies).
Volumes, where ``config.data.dims`` is 3, are measured slice by slice, and by how alike neighbouring slices
are; their class is not read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from diffax.data import ArraySource
from diffax.evaluation import (
    Classifier,
    copy_check,
    extract,
    frechet_distance,
    kernel_distance,
    random_features,
    train_classifier,
)
from diffax.io import samples
from experiments import pictures as sheets
from experiments.medical_survey.tasks import base, images, measures
from experiments.medical_survey.tasks.images import Prior

Images = Float[np.ndarray, "n ..."]


def make_task(config: ConfigDict) -> base.Task:
    """The task: samples at each of ``config.eval.guidance``."""
    prior = images.make_prior(config)

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        real, held = (
            take(2 * config.eval.n)[prior.field] for take in (prior.cases.training, prior.cases.held_out)
        )
        n = min(config.eval.n, len(held), len(real) // 2)  # a folder may have fewer
        classifier = train_reader(prior) if config.data.classes and real.ndim == 4 else None
        labels = np.arange(n) % max(1, config.data.classes)
        found: dict[str, dict[str, Any]] = {}
        first = config.eval.guidance[0]
        for scale in config.eval.guidance[: None if classifier else 1]:
            asked = labels[: None if scale == first else config.eval.n_others]
            drawn = generate(prior, networks, asked, scale)
            name = f"guidance_{scale:g}"
            # distances of different numbers of images do not compare: the first scale's alone
            distances = quality(drawn, held[:n], real) if scale == first else {}
            found[name] = distances | read_classes(classifier, drawn, asked)
            samples.write_npz(workdir / f"samples-{name}.npz", image=drawn, label=asked)
            _sheet(workdir / f"samples-{name}.png", drawn)
        _sheet(workdir / "held-out.png", held)
        found[""] = found[f"guidance_{first:g}"]
        found |= references(real[:n], held, real)
        if classifier:
            found["reader"] = {"held_out_accuracy": classifier.accuracy}
        about = {"n_real": n, "n_fake": n, "split": prior.cases.split, "seed": config.seed}
        return measures.report(found, **about, extractor=random_features(1).label)

    def draw(networks: base.Networks, workdir: Path) -> None:
        labels = np.arange(config.sample.n) % max(1, config.data.classes)
        drawn = generate(prior, networks, labels, config.eval.guidance[0])
        samples.write_npz(workdir / "samples.npz", image=drawn, label=labels)
        _sheet(workdir / "samples.png", drawn)

    return base.Task(prior.needs, lambda key: images.init(prior, key), images.losses(prior), evaluate, draw)


def generate(prior: Prior, networks: base.Networks, labels: Int[np.ndarray, "n"], scale: float) -> Images:
    """Images of the given labels; guidance 0 ignores them."""
    run = base.make_sample(prior.config, prior.model, base.guided(scale))
    keys = jax.random.split(jax.random.key(prior.config.seed + 22), len(labels))
    return np.asarray(run(networks["model"], keys, images.condition(jnp.asarray(labels))))


def quality(drawn: Images, held: Images, real: Images) -> dict[str, float]:
    """Distances to as many held-out images, and the check for copies of training images."""
    extractor = random_features(1)
    features = [extract(extractor, flat(x)) for x in (held, drawn)]
    copies = copy_check(drawn, real, held)
    found = {
        "kid": kernel_distance(*features, subset_size=min(50, len(drawn) // 2)).value,
        "copy_median_ratio": copies.median_ratio,
        "copy_duplicates": float(copies.duplicates),
    }
    if min(map(len, features)) > extractor.dim:  # fewer determine no covariance
        found = {"frechet": frechet_distance(*features)} | found
    return found | ({"slice_step": _step(drawn) / _step(held)} if drawn.ndim == 5 else {})


def references(real: Images, held: Images, training: Images) -> dict[str, dict[str, float]]:
    """The floor, real training images; a Gaussian with their mean and covariance; and blurred images."""
    n = len(real)
    rng = np.random.default_rng(0)
    pixels = training.reshape(len(training), -1)
    mean, weights = pixels.mean(axis=0), rng.normal(size=(n, len(pixels))) / len(pixels) ** 0.5
    gaussian = (mean + weights @ (pixels - mean)).reshape(real.shape).astype(np.float32)
    blurred = np.mean([np.roll(real, s, axis=a) for a in (1, 2) for s in (-1, 0, 1)], axis=0)
    kinds = {"floor": real, "gaussian": np.clip(gaussian, -1, 1), "blurred": blurred}
    return {name: quality(x, held[:n], training[n:]) for name, x in kinds.items()}


def train_reader(prior: Prior) -> Classifier:
    """A classifier of clean images, trained on the same heads: it tells what class a sample shows."""
    fields = (prior.field, "label")
    train, held = prior.cases.training(2000), prior.cases.held_out(400)
    sources = [ArraySource(c[fields[0]], c["label"]) for c in (train, held)]
    steps = prior.config.eval.reader_steps
    return train_classifier(*sources, seed=prior.config.seed, steps=steps)


def read_classes(
    classifier: Classifier | None, drawn: Images, labels: Int[np.ndarray, "n"]
) -> dict[str, Any]:
    """Whether the classifier reads the class that was asked for, image by image."""
    if classifier is None:
        return {}
    read = np.asarray(classifier.logits(jnp.asarray(np.clip(drawn, -1, 1)))).argmax(axis=1)
    return {"class_accuracy": (read == labels).astype(np.float64)}


def flat(x: Images) -> Float[np.ndarray, "m h w c"]:
    """Images, or every slice of volumes, clipped to [-1, 1]."""
    return np.clip(x.reshape(-1, *x.shape[-3:]), -1, 1)


def _sheet(path: Path, x: Images) -> None:
    """The first sixty images, or a row of ten slices for each of six volumes."""
    if x.ndim == 5:
        x = x[:6, np.linspace(0, x.shape[1] - 1, 12).round().astype(int)[1:-1]]
    sheets.sheet(path, flat(x)[:60], 10, side=96)


def _step(volumes: Images) -> float:
    return float(np.mean(np.abs(np.diff(volumes, axis=1))))
