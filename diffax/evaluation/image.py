"""Agreement of an image with its reference: PSNR, SSIM, NMSE. Each returns one value per image.

``data_range`` is the distance between the least and the greatest possible value, 2 for images in [-1, 1];
it is never guessed from the data. Images are (b, ..., c): channels last, any number of spatial axes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.checks import is_concrete, require, require_number, require_one_of

Images = Float[np.ndarray | Array, "..."]  # (b, ..., c)


def psnr(image: Images, reference: Images, *, data_range: float) -> Float[Array, "b"]:
    """Peak signal-to-noise ratio in dB: ``10 log10(data_range^2 / mean squared error)``; inf if equal."""
    x, y = _pair(image, reference)
    require_number("data_range", data_range, 0.0, float("inf"), "positive")
    error = jnp.mean((x - y) ** 2, axis=tuple(range(1, x.ndim)))
    return 10 * jnp.log10(data_range**2 / error)


def nmse(image: Images, reference: Images) -> Float[Array, "b"]:
    """Normalised squared error ``|x - y|^2 / |y|^2``, y the reference. Raises ``ValueError`` for y = 0."""
    x, y = _pair(image, reference)
    axes = tuple(range(1, x.ndim))
    power = jnp.sum(y**2, axis=axes)
    if is_concrete(power):
        require(bool((power > 0).all()), "reference: sum of squares", 0.0, "images that are not all zero")
    return jnp.sum((x - y) ** 2, axis=axes) / power


def ssim(
    image: Images,
    reference: Images,
    *,
    data_range: float,
    window: int = 11,
    sigma: float = 1.5,
    padding: str = "valid",
) -> Float[Array, "b"]:
    """Structural similarity, the mean over positions and channels, at most 1.

    ``(2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2))`` with means and (biased)
    covariances under a Gaussian window, ``C1 = (0.01 data_range)^2``, ``C2 = (0.03 data_range)^2``.
    Wang et al. 2004 (IEEE TIP 13), equation 13. In three dimensions the window is a cube.

    ``padding`` "valid" averages only over windows that lie inside, as that paper does; "reflect" mirrors
    the image at its edges, so that every pixel counts. Raises ``ValueError`` for an even window, or an
    image that is smaller than it.
    """
    x, y = _pair(image, reference)
    require_number("data_range", data_range, 0.0, float("inf"), "positive")
    require_number("sigma", sigma, 0.0, float("inf"), "positive")
    require_one_of("padding", padding, ("valid", "reflect"))
    require(window >= 1 and window % 2 == 1, "window", window, "an odd number")
    smallest = min(x.shape[1:-1])
    require(smallest >= window, "image: spatial shape", x.shape[1:-1], f"at least the window, {window}")
    axes = tuple(range(1, x.ndim))
    offset = jnp.mean(y, axis=axes, keepdims=True)  # variances lose no digits to a far-off mean
    x, y = (x - offset) / data_range, (y - offset) / data_range
    (mx, my), (sx, sy, sxy) = _moments(x, y, window, sigma, padding)
    mx, my = mx + offset / data_range, my + offset / data_range
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    structure = (2 * sxy + c2) / (sx + sy + c2)
    return jnp.mean(luminance * structure, axis=axes)


def _moments(
    x: Float[Array, "b *s c"], y: Float[Array, "b *s c"], window: int, sigma: float, padding: str
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    """Local means, and local variances and covariance, of two images."""
    mx, my, xx, yy, xy = (_blur(v, window, sigma, padding) for v in (x, y, x * x, y * y, x * y))
    return (mx, my), (xx - mx * mx, yy - my * my, xy - mx * my)


def _blur(x: Float[Array, "b *s c"], window: int, sigma: float, padding: str) -> Array:
    """Weighted means over Gaussian windows, one spatial axis after the other."""
    position = np.arange(window) - window // 2
    weights = np.exp(-0.5 * (position / sigma) ** 2)
    weights /= weights.sum()
    for axis in range(1, x.ndim - 1):
        if padding == "reflect":
            widths = [(window // 2,) * 2 if a == axis else (0, 0) for a in range(x.ndim)]
            x = jnp.pad(x, widths, mode="symmetric")
        length = x.shape[axis] - window + 1
        parts = [w * jnp.take(x, jnp.arange(i, i + length), axis) for i, w in enumerate(weights)]
        x = sum(parts[1:], parts[0])
    return x


def _pair(image: Images, reference: Images) -> tuple[Array, Array]:
    x, y = jnp.asarray(image, jnp.float32), jnp.asarray(reference, jnp.float32)
    require(x.shape == y.shape, "reference: shape", y.shape, f"{x.shape}, as the image")
    require(x.ndim >= 3, "image: shape", x.shape, "(b, ..., c) with at least one spatial axis")
    return x, y
