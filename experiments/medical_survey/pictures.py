"""The report's pictures: sheets, trajectories, the loss curve, nearest neighbours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffax.data import stack_items
from diffax.evaluation.nearest import nearest
from diffax.io import read_metrics, save_png, tile, write_atomically
from diffax.types import Params
from experiments import build
from experiments.medical_survey import method
from experiments.medical_survey.page import Section


def draw_all(
    config: ConfigDict, folder: Path, params: Params, rows: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """Every picture as PNG in the folder, and the sections that show them."""
    best = best_of_each_framework(rows)
    sheets = [(draw_real(config, folder), "Held-out scans, a column a class")]
    sheets += [
        (folder / f"samples-{row['name']}.png", f"{row['framework']}: {row['solver']}") for row in best
    ]
    paths = [
        (draw_trajectory(config, folder, params, row["name"]), f"{row['framework']}: {row['solver']}")
        for row in best
    ]
    neighbours = draw_neighbours(config, folder, best[0]["name"])
    return [
        Section("Samples", sheets, wide=False),
        Section("From noise (left) to samples (right)", paths, wide=False),
        Section("Training", [(draw_loss(folder), "Loss, mean since the last log")]),
        Section("Are they copies?", [(neighbours, "Samples, each above the training scan nearest to it")]),
    ]


def best_of_each_framework(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The row with the smallest Fréchet distance of each framework, in the order of the table."""
    frameworks = list(dict.fromkeys(row["framework"] for row in rows))
    return [min((r for r in rows if r["framework"] == f), key=lambda r: r["frechet"]) for f in frameworks]


def draw_real(config: ConfigDict, folder: Path) -> Path:
    """Held-out images, laid out as the samples are."""
    real = stack_items(build.open_source(config.data, "test"))
    return _sheet(
        folder / "real.png",
        real["image"][method.by_class(real.get("label", np.zeros(len(real["image"]), int)))],
    )


def draw_trajectory(config: ConfigDict, folder: Path, params: Params, name: str) -> Path:
    """Six samples at ten moments of a solver's path, the noisy ones scaled down to the picture's range."""
    solver = method.make_solver(config.solvers[name])
    model = build.make_model(config.model, config.data.classes)
    shape = tuple(build.open_source(config.data, "train").spec.shapes["image"])
    generate = method.make_generate(config, model, shape, solver)
    labels = np.arange(6) % config.data.classes
    keys = jax.random.split(jax.random.key(config.seed + 4), len(labels))
    steps = np.asarray(generate(params, keys, labels, return_path=True).path)
    frames = steps[:, np.linspace(0, steps.shape[1] - 1, 10).round().astype(int)]
    scale = np.maximum(1.0, frames.std(axis=(2, 3, 4), keepdims=True) / 0.8)
    return _sheet(folder / f"trajectory-{name}.png", (frames / scale).reshape(-1, *shape))


def draw_loss(folder: Path) -> Path:
    """The loss curve from the run's metrics."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(folder / "metrics.jsonl")
    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="#1f5fa8")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    write_atomically(folder / "loss.png", lambda temporary: figure.savefig(temporary, dpi=140))
    pyplot.close(figure)
    return folder / "loss.png"


def draw_neighbours(config: ConfigDict, folder: Path, name: str) -> Path:
    """Twenty samples, each above the training image nearest to it."""
    samples = np.load(folder / f"samples-{name}.npz")["image"][:20]
    train = stack_items(build.open_source(config.data, "train"))["image"]
    _, index = nearest(samples.reshape(len(samples), -1), train.reshape(len(train), -1))
    halves = (slice(0, 10), slice(10, 20))
    rows = [images for half in halves for images in (samples[half], train[index[half]])]
    return _sheet(folder / "neighbours.png", np.concatenate(rows))


def _sheet(path: Path, images: np.ndarray) -> Path:
    """Images ten to a row, enlarged to be looked at."""
    save_png(path, tile(np.clip(images, -1, 1), columns=10, zoom=max(1, 40 // images.shape[1])))
    return path
