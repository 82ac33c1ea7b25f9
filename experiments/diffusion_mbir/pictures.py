"""Three planes of volumes beside each other, and their errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from diffax.io import write_atomically

ERROR_RANGE = 0.2  # of the value range, at which the error's colours end


def planes(
    path: Path,
    volumes: Mapping[str, Float[np.ndarray, "h w n"]],
    truth: Float[np.ndarray, "h w n"] | None = None,
    *,
    window: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> None:
    """A column a volume; rows: axial, coronal and sagittal middle slices, over their errors where known."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {**({"truth": truth} if truth is not None else {}), **volumes}
    rows = 3 * (2 if truth is not None else 1)
    figure, axes = pyplot.subplots(
        rows, len(shown), figsize=(2.2 * len(shown), 2.05 * rows), squeeze=False, layout="constrained"
    )
    for column, (name, volume) in enumerate(shown.items()):
        for plane in range(3):
            first = plane * (rows // 3)
            axes[first, column].imshow(_cut(volume, plane), cmap="gray", vmin=window[0], vmax=window[1])
            if truth is not None:
                error = _cut(volume, plane) - _cut(truth, plane)
                axes[first + 1, column].imshow(error, cmap="RdBu_r", vmin=-ERROR_RANGE, vmax=ERROR_RANGE)
        axes[0, column].set_title(name, fontsize=9)
    for axis in axes.ravel():
        axis.set(xticks=(), yticks=())
    labels = ("axial", "coronal", "sagittal")
    for plane in range(3):
        axes[plane * (rows // 3), 0].set_ylabel(labels[plane], fontsize=9)
        if truth is not None:
            axes[plane * 2 + 1, 0].set_ylabel(f"error, ±{ERROR_RANGE:g}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)


def _cut(volume: np.ndarray, plane: int) -> np.ndarray:
    """The middle axial, coronal or sagittal slice, the head above."""
    rows, columns, slices = volume.shape
    if plane == 0:
        return volume[:, :, slices // 2]
    return (volume[rows // 2] if plane == 1 else volume[:, columns // 2]).T[::-1]
