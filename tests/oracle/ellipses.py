"""Ellipses whose line integrals are known in closed form: rasters, projections, and a dense Joseph matrix.

An ellipse is ``(density, semi-axis a, semi-axis b, x, y, turn in degrees)`` in half-widths of the image: x to
the right and y up, both in [-1, 1].
"""

import numpy as np

# Toft's version, of higher contrast
SHEPP_LOGAN = [
    (1.0, 0.69, 0.92, 0, 0, 0),
    (-0.8, 0.6624, 0.874, 0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0, 18),
    (0.1, 0.21, 0.25, 0, 0.35, 0),
    (0.1, 0.046, 0.046, 0, 0.1, 0),
    (0.1, 0.046, 0.046, 0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
]
ONE = [(1.0, 0.55, 0.3, 0.2, -0.15, 30)]


def line_integrals(ellipses, theta, s):
    """Integrals along ``x cos(theta) + y sin(theta) = s``, for theta and s that broadcast.

    With ``gamma = theta - turn`` and ``alpha^2 = a^2 cos^2 gamma + b^2 sin^2 gamma`` an ellipse's integral is
    ``2 density a b sqrt(alpha^2 - s'^2) / alpha^2``, s' measured from its centre.
    """
    total = 0.0
    for density, a, b, x, y, turn in ellipses:
        gamma = theta - np.deg2rad(turn)
        alpha2 = (a * np.cos(gamma)) ** 2 + (b * np.sin(gamma)) ** 2
        inside = np.clip(alpha2 - (s - x * np.cos(theta) - y * np.sin(theta)) ** 2, 0, None)
        total = total + 2 * density * a * b * np.sqrt(inside) / alpha2
    return total


def sinogram(ellipses, angles, size, bins, samples=16):
    """Integrals in pixels, averaged over unit bins about the axis, ``(views, bins)``."""
    s = ((np.arange(bins * samples) + 0.5) / (bins * samples) * 2 - 1) * bins / size
    fine = line_integrals(ellipses, np.asarray(angles)[:, None], s)
    return fine.reshape(len(angles), bins, samples).mean(2) * size / 2


def raster(ellipses, size, samples=8):
    """Densities averaged over pixels, ``(size, size)``; row 0 at +y."""
    fine = (np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1
    x, y = fine[None], -fine[:, None]
    image = np.zeros((size * samples, size * samples))
    for density, a, b, x0, y0, turn in ellipses:
        cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        u, v = (x - x0) * cos + (y - y0) * sin, -(x - x0) * sin + (y - y0) * cos
        image += density * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    return image.reshape(size, samples, size, samples).mean((1, 3))


def joseph_matrix(shape, theta, s, pixel=1.0):
    """Joseph's entries from their formula, ``(rays, rows, columns)``, for rays given by theta and s."""
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel
    y = ((shape[0] - 1) / 2 - np.arange(shape[0])) * pixel
    theta, s = np.ravel(theta)[:, None, None], np.ravel(s)[:, None, None]
    m = np.maximum(np.abs(np.cos(theta)), np.abs(np.sin(theta))) * pixel
    away = np.abs(s - x * np.cos(theta) - y[:, None] * np.sin(theta))
    return pixel**2 / m * np.clip(1 - away / m, 0, None)
