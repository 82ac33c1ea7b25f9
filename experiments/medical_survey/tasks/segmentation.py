"""Segmentation by an ensemble of samples: the mask is what is diffused, the image is the condition.

Each step draws the mask of one annotator, so samples differ as annotators do, and their mean is a probability
(Wolleb et al. 2022, arXiv:2112.03145; Wu et al. 2022, MedSegDiff). The network says
the mask itself and the loss is on it: on noise or v it is nearly all of steps where the mask shines through,
and the network hardly learns to look at the image.
The baseline is the same U-Net with cross-entropy on the same masks; its probabilities are drawn from pixel by
pixel where samples are compared.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax.evaluation import (
    auroc,
    best_dice,
    calibration_curve,
    calibration_error,
    dice,
    generalized_energy_distance,
)
from diffax.training.step import Batch
from experiments.medical_survey.tasks import base, measures, paired, pictures
from experiments.medical_survey.tasks.cases import open_cases

Masks = Float[np.ndarray, "..."]


def make_task(config: ConfigDict) -> base.Task:
    """The task for the modalities in ``config.data.inputs``."""
    needs = (*config.data.inputs, "mask", "annotators", "label")
    cases = open_cases(config, needs)
    model = paired.make_model(config, lambda batch: stacked(config, batch), one_annotator)

    def predict(networks: base.Networks, found: Batch, count: int) -> tuple[Masks, Masks]:
        x = jnp.asarray(stacked(config, found))
        samples = (paired.draws(config, model, networks["model"], x, count) + 1) / 2
        plain = jax.nn.sigmoid(
            jax.jit(paired.answer, static_argnums=0)(model.network, networks["baseline"], x)
        )
        return np.asarray(samples), np.asarray(plain)

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        count = config.eval.draws
        ill, well = cases.held_out(config.eval.n, 1), cases.held_out(config.eval.n, 0)
        n = len(ill["mask"])  # a folder may have fewer
        samples, plain = predict(networks, ill, count)
        samples_well, plain_well = predict(networks, well, count)
        rng = np.random.default_rng(config.seed)
        as_drawn = (rng.random((count, *plain.shape)) < plain).astype(np.float32)
        found = {
            "": measure(samples, samples_well, ill),
            "unet": measure(plain[None], plain_well[None], ill) | energy(as_drawn, ill),
            "threshold": threshold(config, ill),
        }
        found["unet"] |= {"uncertainty_auroc": doubt(plain * (1 - plain), plain, ill["mask"])}
        curves = {
            "ensemble": calibration_curve(samples.mean(axis=0), ill["mask"]),
            "u-net": calibration_curve(plain, ill["mask"]),
        }
        lines = {k: (c.confidence[c.count > 0], c.frequency[c.count > 0]) for k, c in curves.items()}
        pictures.curves(workdir / "calibration.png", lines, ("stated probability", "share of lesion"), True)
        pictures.rows(workdir / "segmented.png", _columns(config, ill, samples, plain))
        about = {"n_real": n, "n_fake": count * n, "split": cases.split, "seed": config.seed}
        return measures.report(found, **about)

    def draw(networks: base.Networks, workdir: Path) -> None:
        ill = cases.held_out(config.sample.n, 1)
        pictures.rows(workdir / "samples-masks.png", _columns(config, ill, *predict(networks, ill, 3)))

    losses = paired.losses(config, model, cross_entropy)
    return base.Task(needs, paired.init(config, model, needs), losses, evaluate, draw)


def stacked(config: ConfigDict, batch: Batch) -> Float[Array | np.ndarray, "b h w c"]:
    """The modalities that are seen, as channels."""
    return jnp.concatenate([batch[name] for name in config.data.inputs], axis=-1)


def one_annotator(batch: Batch, key: Key[Array, ""]) -> Float[Array, "b h w 1"]:
    """The mask of an annotator drawn for each case, in [-1, 1]."""
    masks = batch["annotators"]
    which = jax.random.randint(key, masks.shape[:1], 0, masks.shape[-1])
    return 2 * jnp.take_along_axis(masks, which[:, None, None, None], axis=-1) - 1


def cross_entropy(logits: Array, target: Array) -> Array:
    """Of a target in [-1, 1]."""
    return optax.sigmoid_binary_cross_entropy(logits, (target + 1) / 2)


def measure(
    samples: Float[np.ndarray, "d n h w 1"], well: Float[np.ndarray, "d n h w 1"], ill: Batch
) -> dict[str, measures.Value]:
    """Of samples in [0, 1] on cases with lesions, and on others: the mean's Dice against the true mask, a
    single sample's, false pixels of healthy cases, calibration, how spread and error go together, energy
    distance.
    """
    mean, truth = samples.mean(axis=0), np.asarray(ill["mask"])
    found: dict[str, measures.Value] = {
        "dice": dice(mean > 0.5, truth > 0),
        "healthy_false_pixels": (well.mean(axis=0) > 0.5).sum(axis=(1, 2, 3)).astype(np.float64),
        "calibration_error": calibration_error(calibration_curve(mean, truth)),
    }
    if len(samples) > 1:
        found["dice_single"] = np.mean([dice(s > 0.5, truth > 0) for s in samples], axis=0)
        found["uncertainty_auroc"] = doubt(samples.var(axis=0), mean, truth)
        found |= energy((samples > 0.5).astype(np.float32), ill)
    return found


def energy(samples: Float[np.ndarray, "d n h w 1"], ill: Batch) -> dict[str, measures.Value]:
    """The generalised energy distance of samples to the annotators' masks, case by case."""
    references = np.moveaxis(np.asarray(ill["annotators"]), -1, 0)[..., None]
    pairs = zip(np.moveaxis(samples, 1, 0), np.moveaxis(references, 1, 0), strict=True)
    return {"energy_distance": np.array([generalized_energy_distance(s, r) for s, r in pairs])}


def doubt(spread: Masks, mean: Masks, truth: Masks) -> measures.Value:
    """Whether wrong pixels are those in doubt: the area under the ROC curve, NaN where none is wrong."""
    wrong = (mean > 0.5) != (np.asarray(truth) > 0)
    if wrong.all() or not wrong.any():
        return math.nan
    return measures.pooled(auroc, len(spread), spread, wrong)


def threshold(config: ConfigDict, ill: Batch) -> dict[str, measures.Value]:
    """The best that one threshold on one modality can do, chosen with the truth in hand."""
    truth = np.asarray(ill["mask"])
    scores = [sign * np.asarray(ill[name]) for name in config.data.inputs for sign in (1, -1)]
    best = max((best_dice(s, truth) for s in scores), key=lambda found: found.value)
    return {"dice_pooled": best.value}


def _columns(config: ConfigDict, ill: Batch, samples: Masks, plain: Masks) -> dict[str, Masks]:
    columns = {name: ill[name] for name in config.data.inputs} | {"true mask": 2 * ill["mask"] - 1}
    columns["annotators"] = 2 * np.asarray(ill["annotators"]).mean(axis=-1, keepdims=True) - 1
    columns |= {f"sample {k + 1}": 2 * s - 1 for k, s in enumerate(samples[:3])}
    columns |= {"mean of samples": 2 * samples.mean(axis=0) - 1, "spread": 4 * samples.std(axis=0) - 1}
    return columns | {"U-Net": 2 * plain - 1}
