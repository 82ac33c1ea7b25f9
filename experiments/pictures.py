"""Pictures that several experiments draw: sheets of images, clouds of points."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from diffax.io import save_png, tile, write_atomically


def scatter(
    path: Path, rows: Sequence[Sequence[Float[np.ndarray, "n 2"]]], titles: Sequence[Sequence[str]]
) -> None:
    """Clouds of points side by side, all in one frame of the plane."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (2.6 * len(rows[0]), 2.9 * len(rows))
    figure, axes = pyplot.subplots(len(rows), len(rows[0]), figsize=size, layout="constrained", squeeze=False)
    frames, names = itertools.chain(*rows), itertools.chain(*titles)
    for axis, frame, title in zip(axes.ravel(), frames, names, strict=True):
        axis.scatter(*frame[:4000].T, s=1.5, alpha=0.35, linewidths=0, color="#1f5fa8")
        axis.set(title=title, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=(), yticks=())
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)


def sheet(path: Path, images: Float[np.ndarray, "n h w c"], columns: int = 10, side: int = 40) -> None:
    """Images in rows, enlarged to be looked at: by a whole number, to ``side`` pixels or a little less."""
    save_png(path, tile(np.clip(images, -1, 1), columns=columns, zoom=max(1, side // images.shape[1])))
