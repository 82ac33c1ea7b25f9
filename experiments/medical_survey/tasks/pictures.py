"""Pictures with titles: a row of named images for each case, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffax.io import write_atomically


def rows(path: Path, columns: Mapping[str, np.ndarray], cases: int = 6) -> None:
    """The first cases below each other, a column for each name; images in [-1, 1], (n, h, w, 1 or 3)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = min(cases, len(next(iter(columns.values()))))
    size = (1.35 * len(columns), 1.35 * cases + 0.4)
    figure, axes = pyplot.subplots(cases, len(columns), figsize=size, layout="constrained", squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name.replace("_", " "), fontsize=7)
        for row in range(cases):
            axis = axes[row, column]
            shown = np.clip((images[row] + 1) / 2, 0, 1)
            axis.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=(), yticks=())
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)


def curves(
    path: Path,
    lines: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    labels: tuple[str, str],
    diagonal: bool = False,
) -> None:
    """Named curves (x, y) in one frame; ``diagonal``: with the line y = x of a perfect answer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.4, 3.4), layout="constrained")
    if diagonal:
        axis.plot([0, 1], [0, 1], color="#999", linewidth=1, linestyle="--", label="perfect")
    for name, (x, y) in lines.items():
        axis.plot(x, y, marker="o", markersize=3, label=name.replace("_", " "))
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)
