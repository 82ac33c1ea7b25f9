"""Where a landmark of one image lies in another: block matching, to a fraction of a pixel."""

import numpy as np
from jaxtyping import Float

from diffax.checks import require


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
    square after its own mean is taken away, refined by a quadratic surface through its neighbours. NaN for
    points whose square or whose search leaves the image. Raises ``ValueError`` for images of unequal shape,
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
    if not all(0 < place < 2 * reach for place in best):
        return np.asarray(best, float) - reach
    return best + _vertex(cost[best[0] - 1 : best[0] + 2, best[1] - 1 : best[1] + 2]) - reach


def _vertex(cost: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2"]:
    """Where a quadratic surface through nine costs, by least squares, is lowest; 0 is the middle."""
    i, j = (axis.ravel() for axis in np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1], indexing="ij"))
    terms = np.stack([np.ones(9), i, j, i * i, i * j, j * j], axis=1)
    _, a, b, aa, ab, bb = np.linalg.lstsq(terms, cost.ravel(), rcond=None)[0]
    bend = np.array([[2 * aa, ab], [ab, 2 * bb]])
    if np.linalg.det(bend) <= 0:
        return np.zeros(2)
    return np.clip(np.linalg.solve(bend, [-a, -b]), -1, 1)
