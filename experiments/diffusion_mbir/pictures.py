"""Three planes of volumes beside each other, and their errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from diffax.io import write_atomically

ERROR_RANGE = 0.2  # of values in [0, 1], where the colours of errors end


def planes(
    path: Path,
    volumes: Mapping[str, Float[np.ndarray, "h w n"]],
    truth: Float[np.ndarray, "h w n"] | None = None,
    *,
    thickness: float = 1.0,
    title: str = "",
) -> None:
    """A column a volume; rows: axial, coronal and sagittal middle slices, over their errors where known.

    ``thickness`` is the distance of slices in pixels. Grey runs from 0 to what 99.8 % of the first volume
    lies below.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {**({"truth": truth} if truth is not None else {}), **volumes}
    kinds = ("", "error") if truth is not None else ("",)
    first = next(iter(shown.values()))
    heights = [_height(first, plane, thickness) for plane in range(3) for _ in kinds]
    size = (2.2 * len(shown), 0.6 + 2.1 * sum(heights))
    figure, axes = pyplot.subplots(
        len(heights), len(shown), figsize=size, squeeze=False, layout="constrained", height_ratios=heights
    )
    white = max(float(np.quantile(first, 0.998)), 1e-3)
    for column, (name, volume) in enumerate(shown.items()):
        axes[0, column].set_title(name, fontsize=9)
        for plane, label in enumerate(("axial", "coronal", "sagittal")):
            for row, kind in enumerate(kinds, plane * len(kinds)):
                image = _cut(volume, plane)
                style = {"cmap": "gray", "vmin": 0.0, "vmax": white}
                if kind:
                    image = image - _cut(first, plane)
                    style = {"cmap": "RdBu_r", "vmin": -ERROR_RANGE, "vmax": ERROR_RANGE}
                axis = axes[row, column]
                axis.imshow(image, aspect=1.0 if plane == 0 else thickness, **style)
                axis.set(xticks=(), yticks=(), ylabel="" if column else kind or label)
    figure.suptitle(f"{title}, errors ±{ERROR_RANGE:g}" if truth is not None else title, fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)


def _height(volume: np.ndarray, plane: int, thickness: float) -> float:
    """Height over width of a plane's picture."""
    high, wide = _cut(volume, plane).shape
    return high * (1.0 if plane == 0 else thickness) / wide


def _cut(volume: np.ndarray, plane: int) -> np.ndarray:
    """The middle axial, coronal or sagittal slice, the head above."""
    rows, columns, slices = volume.shape
    if plane == 0:
        return volume[:, :, slices // 2]
    return (volume[rows // 2] if plane == 1 else volume[:, columns // 2]).T[::-1]
