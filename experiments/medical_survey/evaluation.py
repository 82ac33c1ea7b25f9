"""Figures for ``result.json``: each solver's distance to the held-out images, with the floor beside it."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from diffax import bits_per_dim, data
from diffax.evaluation import Classifier, Figure, extract, frechet_distance
from diffax.io import samples
from diffax.training import mesh_of, place, replicated
from diffax.types import Params
from experiments import build
from experiments.medical_survey import method
from experiments.progress import say
from experiments.reference import HELD_OUT, Reference, make_reference, quality


def evaluate(
    config: ConfigDict, model: nn.Module, params: Params, solvers: Mapping[str, method.Solver], workdir: Path
) -> dict[str, Any]:
    """Figures of every solver, of the real-to-held-out floor, and bits per dimension where asked for."""
    settings = {
        "labelled": config.data.classes > 0,
        "seed": config.seed,
        "steps": config.eval.classifier_steps,
    }
    reference = make_reference(config.data, workdir, **settings)
    figures = floor_figures(config, reference)
    rows = []
    for name, solver in solvers.items():
        row, found = evaluate_solver(config, model, params, name, solver, reference, workdir)
        rows.append(row)
        figures += found
        say(f"measured {len(rows)}/{len(solvers)}: {method.format_row(row)}")
    if config.eval.likelihood_n:
        figures.append(likelihood_figure(config, model, params, reference))
    return {"figures": figures, "rows": rows}


def floor_figures(config: ConfigDict, reference: Reference) -> list[Figure]:
    """The same distance for real training images: as many as samples, with their classes, and all of them."""
    features = extract(reference.extractor, reference.train["image"])
    rng = np.random.default_rng(config.seed)
    wanted = _labels_like(reference.held_out, config.eval.n)
    floors = []
    for _ in range(8):
        take = _draw_like(rng, wanted, reference.train)
        floors.append(frechet_distance(reference.held_out_features, features[take]))
    everything = frechet_distance(reference.held_out_features, features)
    whole = _figure(config, reference, "floor_all_training/frechet", everything)
    figures = [
        _figure(config, reference, "floor/frechet", float(np.mean(floors))),
        whole._replace(n_fake=len(features)),
    ]
    if reference.classifier is not None:
        accuracy = reference.classifier.accuracy
        figures.append(_figure(config, reference, "classifier_held_out_accuracy", accuracy))
    return figures


def evaluate_solver(
    config: ConfigDict,
    model: nn.Module,
    params: Params,
    name: str,
    solver: method.Solver,
    reference: Reference,
    workdir: Path,
) -> tuple[dict[str, Any], list[Figure]]:
    """One row of the table, and its entries as figures with everything they depend on."""
    shape = reference.held_out["image"].shape[1:]
    labels = _labels_like(reference.held_out, config.eval.n)
    generate = method.make_generate(config, model, shape, solver)
    key = jax.random.key(config.seed + 2)
    batch = config.eval.batch_size
    compiled = generate.lower(*samples.arguments(params, key, labels, 0, batch)).compile()
    start = time.perf_counter()  # compilation is outside the clock
    outputs = list(samples.in_batches(compiled, params, key, labels, batch))
    seconds = time.perf_counter() - start
    images, nfe = np.concatenate([out.x for out in outputs]), int(outputs[0].nfe)
    samples.write_npz(workdir / f"samples-{name}.npz", image=images, label=labels)
    method.save_sheet(workdir, name, images, labels)
    values = {"nfe": nfe, "seconds": seconds, **measure(np.clip(images, -1, 1), labels, reference)}
    row = {"name": name, "framework": solver.framework, "solver": solver.label, **values}
    return row, [_figure(config, reference, f"{name}/{k}", v) for k, v in values.items()]


def measure(images: np.ndarray, labels: np.ndarray, reference: Reference) -> dict[str, float]:
    """Quality of images in [-1, 1], and how many have the class that was asked for."""
    return quality(images, reference) | {
        "class_accuracy": class_accuracy(images, labels, reference.classifier)
    }


def class_accuracy(images: np.ndarray, labels: np.ndarray, classifier: Classifier | None) -> float:
    """How often the classifier reads the class that was asked for; NaN where there are none."""
    asked = labels >= 0
    if classifier is None or not asked.any():
        return math.nan
    predicted = np.asarray(classifier.logits(jnp.asarray(images))).argmax(axis=1)
    return float(np.mean(predicted[asked] == labels[asked]))


def likelihood_figure(config: ConfigDict, model: nn.Module, params: Params, reference: Reference) -> Figure:
    """Bits per dimension of held-out images along the probability flow of the training process."""
    n = min(config.eval.likelihood_n, len(reference.held_out["image"]))
    here = replicated(mesh_of(params))
    images = place(reference.held_out["image"][:n], here)
    process = build.make_process(config.process)
    cond = None
    if "label" in reference.held_out and config.data.classes:
        cond = method.condition(reference.held_out["label"][:n])

    @jax.jit
    def bits(params: Params, images: jax.Array) -> jax.Array:
        denoise = method.make_denoiser(config, build.make_apply(model), params, process)
        key = jax.random.key(config.seed + 3)
        return bits_per_dim(
            key, denoise, process, images, levels=config.data.levels, cond=cond, rtol=1e-3, atol=1e-3
        )

    value = float(np.mean(np.asarray(bits(params, images))))
    return Figure("bits_per_dim", value, n_real=n, split=HELD_OUT, seed=config.seed)


def _labels_like(held_out: data.Batch, n: int) -> np.ndarray:
    """Classes in the held-out split's own proportions."""
    if "label" not in held_out:
        return np.full(n, method.UNCONDITIONAL)
    labels = held_out["label"]
    return np.resize(labels, n)


def _draw_like(rng: np.random.Generator, wanted: np.ndarray, train: data.Batch) -> np.ndarray:
    """Indices of training images with the wanted classes; a class short of images gives some twice."""
    labels = train["label"] if "label" in train else np.full(len(train["image"]), method.UNCONDITIONAL)
    drawn = []
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        members = np.flatnonzero(labels == label)
        drawn.append(rng.choice(members, count, replace=count > len(members)))
    return np.concatenate(drawn)


def _figure(config: ConfigDict, reference: Reference, name: str, value: float) -> Figure:
    return Figure(
        name,
        float(value),
        n_real=len(reference.held_out["image"]),
        n_fake=config.eval.n,
        split=HELD_OUT,
        extractor=reference.extractor.label,
        seed=config.seed,
    )
