"""Pictures: paths from noise to samples, of points in the plane and of images."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from diffax.data import Mixture
from diffax.data.points import sample_mixture
from experiments.pictures import scatter, sheet


def draw_points(folder: Path, paths: Float[np.ndarray, "n points 2"], mixture: Mixture) -> None:
    """``samples-path.png``: every point of the chain, and real data last."""
    real = np.asarray(sample_mixture(mixture, jax.random.key(0), len(paths)))
    steps = paths.shape[1] - 1
    titles = ["noise", *(f"after {i} of {steps}" for i in range(1, steps + 1)), "real data"]
    scatter(folder / "samples-path.png", [[*np.moveaxis(paths, 1, 0), real]], [titles])


def draw_paths(path: Path, paths: Float[np.ndarray, "n points h w c"]) -> None:
    """A row for each sample, from noise to image; the noisy ones scaled down to the picture's range."""
    scale = np.maximum(1.0, paths.std(axis=(2, 3, 4), keepdims=True) / 0.8)
    sheet(path, (paths / scale).reshape(-1, *paths.shape[2:]), columns=paths.shape[1])


def channels(path: Path, images: Float[np.ndarray, "n h w 3"]) -> None:
    """Stacked images beside what each of their channels shows: four grey or coloured pictures a group."""
    grey = [np.repeat(images[..., i : i + 1], 3, axis=-1) for i in range(3)]
    sheet(path, np.stack([images, *grey], axis=1).reshape(-1, *images.shape[1:]), columns=16)
