"""Where a landmark of one image lies in another: block matching, to a fraction of a pixel."""

import numpy as np
from jaxtyping import Float

from diffax.checks import require

_ITERATIONS = 5


def block_match(
    image: Float[np.ndarray, "h w"],
    reference: Float[np.ndarray, "h w"],
    points: Float[np.ndarray, "n 2"],
    *,
    window: int = 9,
    reach: int = 4,
) -> Float[np.ndarray, "n 2"]:
    """Rows and columns by which what ``reference`` shows at each (row, column) is displaced in ``image``.

    The shift, up to ``reach`` pixels each way, whose square of ``window`` pixels differs least in the mean
    square after its own mean is taken away, then to a fraction of a pixel by Gauss-Newton. NaN for points
    whose square or whose search leaves the image. Raises ``ValueError`` for images of unequal shape,
    an even window, or no reach.
    """
    require(
        image.shape == reference.shape, "image.shape", image.shape, f"{reference.shape}, as the reference"
    )
    require(window >= 3 and window % 2 == 1, "window", window, "an odd number >= 3")
    require(reach >= 1, "reach", reach, "an integer >= 1")
    return np.array([_displacement(image, reference, point, window // 2, reach) for point in points])


def _displacement(
    image: np.ndarray, reference: np.ndarray, point: np.ndarray, half: int, reach: int
) -> Float[np.ndarray, "2"]:
    i, j = (int(v) for v in np.rint(point))
    margin = half + reach
    rows, columns = reference.shape
    if not (margin <= i < rows - margin and margin <= j < columns - margin):
        return np.full(2, np.nan)
    block = reference[i - half : i + half + 1, j - half : j + half + 1]
    around = image[i - margin : i + margin + 1, j - margin : j + margin + 1]
    windows = np.lib.stride_tricks.sliding_window_view(around, block.shape)
    centred = windows - windows.mean(axis=(2, 3), keepdims=True)
    cost = np.mean((centred - (block - block.mean())) ** 2, axis=(2, 3))
    best = np.unravel_index(np.argmin(cost), cost.shape)
    start = np.asarray(best, float) - reach
    if not all(0 < place < 2 * reach for place in best):
        return start
    return start + np.clip(_refined(image, block, (i, j), start) - start, -1, 1)


def _refined(
    image: np.ndarray, block: np.ndarray, centre: tuple[int, int], shift: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2"]:
    """Gauss-Newton on the mean square, the image interpolated by cubic splines (Lucas & Kanade 1981)."""
    from scipy.ndimage import map_coordinates

    half = block.shape[0] // 2
    offsets = np.arange(-half - 1, half + 2)
    for _ in range(_ITERATIONS):
        rows, columns = (c + offsets + s for c, s in zip(centre, shift, strict=True))
        wide = map_coordinates(image, np.meshgrid(rows, columns, indexing="ij"), order=3, mode="nearest")
        slopes = np.stack([g[1:-1, 1:-1].ravel() for g in np.gradient(wide)], axis=1)
        error = (wide[1:-1, 1:-1] - block).ravel()
        system = slopes - slopes.mean(axis=0)
        shift = shift - np.linalg.lstsq(system, error - error.mean(), rcond=None)[0]
    return shift
