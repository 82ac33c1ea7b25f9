"""Sheets of views: patients beside what was shown of them, one patient from all around."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffax.io import write_atomically

Images = Float[np.ndarray, "n h w 1"]
ERROR_RANGE = 0.6  # of values in [-1, 1], where the colours of errors end


def patients(
    path: Path, held: Any, shown: Mapping[str, Images], count: int = 6, own: str = "network"
) -> None:
    """A row a patient: the radiograph, the true view, then for each method its view; errors below each."""
    names = ["given", "truth", *(name or own for name in shown)]
    count = min(count, len(held.image))
    figure, axes = _grid(2 * count, len(names), width=1.5)
    for row in range(count):
        images = [held.image[row], held.target[row], *(x[row] for x in shown.values())]
        for column, image in enumerate(images):
            _show(axes[2 * row, column], image, names[column] if row == 0 else "")
            below = axes[2 * row + 1, column]
            if column:
                below.imshow(
                    (image - held.target[row])[..., 0], cmap="RdBu_r", vmin=-ERROR_RANGE, vmax=ERROR_RANGE
                )
            below.axis("off")
    _save(figure, path)


def angles(path: Path, shown: Images, truth: Images, degrees: Float[np.ndarray, "n 3"]) -> None:
    """Views of one patient at angles row by row, to the left as the network shows them, to the right true."""
    side = round(len(shown) ** 0.5)
    figure, axes = _grid(side, 2 * side, width=1.3)
    for k, (image, true, (yaw, pitch, _)) in enumerate(zip(shown, truth, degrees, strict=True)):
        row, column = divmod(k, side)
        _show(axes[row, column], image, f"{yaw:+.0f}, {pitch:+.0f}")
        _show(axes[row, column + side], true, f"true {yaw:+.0f}, {pitch:+.0f}")
    _save(figure, path)


def _grid(rows: int, columns: int, width: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (width * columns, (width + 0.12) * rows)
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _show(axis: Any, image: Float[np.ndarray, "h w 1"], title: str) -> None:
    axis.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
    axis.axis("off")
    axis.set_title(title, fontsize=7, pad=2)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)
