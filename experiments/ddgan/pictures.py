"""Pictures of the plane: samples beside the data, and the way from noise to samples."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from diffax.data import Mixture
from diffax.data.points import sample_mixture
from diffax.io import write_atomically
from experiments.ddgan.method import Method


def draw(folder: Path, paths: Float[np.ndarray, "n points 2"], mixture: Mixture, made: Method) -> None:
    """``samples-path.png``: every point of the chain, and real data last."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    real = np.asarray(sample_mixture(mixture, jax.random.key(0), len(paths)))
    titles = ["noise", *(f"after {i} of {made.steps}" for i in range(1, made.steps + 1)), "real data"]
    frames = [*np.moveaxis(paths, 1, 0), real]
    figure, axes = pyplot.subplots(1, len(frames), figsize=(2.6 * len(frames), 2.9), layout="constrained")
    for axis, frame, title in zip(axes, frames, titles, strict=True):
        axis.scatter(*frame[:4000].T, s=1.5, alpha=0.35, linewidths=0, color="#1f5fa8")
        axis.set(title=title, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=(), yticks=())
    write_atomically(folder / "samples-path.png", lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)
