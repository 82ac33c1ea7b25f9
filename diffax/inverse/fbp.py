r"""Filtered back-projection of parallel beams.

A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging", IEEE Press, 1988, chapter 3: with
the ramp-filtered views ``q_v``, the image is ``f(x, y) = sum_v w_v q_v(x cos(theta_v) + y sin(theta_v))``,
where ``w_v`` is the arc (radians) that a view stands for. The ramp is sampled in space, which keeps the
mean right; back-projection is the projector's own adjoint.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.checks import require, require_one_of
from diffax.operators.tomography import Angles, ParallelBeam, check_lengths, checked_angles

# each a function of the frequency in cycles per bin, 0 to 1/2
WINDOWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ram-lak": np.ones_like,
    "shepp-logan": np.sinc,
    "cosine": lambda f: np.cos(np.pi * f),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(2 * np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(2 * np.pi * f),
}


def fbp(
    sinogram: Float[Array, "views detectors slices"], geometry: ParallelBeam, *, window: str = "ram-lak"
) -> Float[Array, "rows columns slices"]:
    """The image whose line integrals are the sinogram, by filtered back-projection.

    Args:
      sinogram: ``geometry.out_shape``; line integrals in the unit of ``geometry.pixel``, so that the image
        is a density per that unit.
      geometry: may be closed over by a jitted function; its tables are small.
      window: one of ``WINDOWS``, applied to the ramp: "ram-lak" (none) is sharpest, "hann" smoothest.

    Views weigh as :func:`view_weights` says. Raises ``ValueError`` for a sinogram of another shape or an
    unknown window.
    """
    require(sinogram.shape == geometry.out_shape, "sinogram", sinogram.shape, str(geometry.out_shape))
    filtered = ramp_filter(sinogram, geometry.spacing, window)
    # a bin's entries in the adjoint sum to pixel**2 / spacing over the bins
    weights = view_weights(geometry.angles) * geometry.spacing / geometry.pixel**2
    return geometry.operator().adjoint(filtered * jnp.asarray(weights, jnp.float32)[:, None, None])


def ramp_filter(
    sinogram: Float[Array, "views detectors slices"], spacing: float = 1.0, window: str = "ram-lak"
) -> Float[Array, "views detectors slices"]:
    """Convolve every view with the ramp ``|f|`` up to half a cycle per bin, times a window.

    The kernel is ``h(0) = 1 / 4``, ``h(k) = -1 / (pi k)**2`` for odd k and zero for even k, over
    ``spacing**2`` (Kak & Slaney, eq. 61); views are padded with zeros, so that nothing wraps around. Raises
    ``ValueError`` for a spacing that is not positive and an unknown window.
    """
    check_lengths(spacing=spacing)
    require_one_of("window", window, WINDOWS)
    n_bins = sinogram.shape[1]
    length = 2 ** int(np.ceil(np.log2(max(2, 2 * n_bins - 1))))
    k = np.fft.fftfreq(length, 1 / length)
    kernel = np.where(k % 2 == 1, -1 / (np.pi * np.where(k == 0, 1, k)) ** 2, 0.0)
    kernel[0] = 0.25
    response = np.fft.rfft(kernel).real * WINDOWS[window](np.fft.rfftfreq(length)) / spacing
    spectrum = jnp.fft.rfft(sinogram, n=length, axis=1)
    filtered = spectrum * jnp.asarray(response, sinogram.dtype)[:, None]
    return jnp.fft.irfft(filtered, n=length, axis=1)[:, :n_bins].astype(sinogram.dtype)


def view_weights(angles: Angles) -> np.ndarray:
    """The arc in radians that each view stands for, ``(views,)`` in float64.

    Half the way to either neighbour modulo pi, ``pi / views`` for even views; equal views share. Where one
    gap is more than twice every other (angles over less than 180 degrees), the views at its sides do not
    reach into it: they count by their spacing to the other side. A single view stands for pi.
    """
    folded = np.round(np.mod(checked_angles(angles), np.pi), 9)
    folded[folded >= np.round(np.pi, 9)] = 0.0
    unique, where, counts = np.unique(folded, return_inverse=True, return_counts=True)
    if len(unique) == 1:
        return np.full(len(folded), np.pi / len(folded))
    before = np.diff(unique, prepend=unique[-1] - np.pi)
    after = np.roll(before, -1)
    widest = int(before.argmax())
    if before[widest] > 2 * np.delete(before, widest).max() * (1 + 1e-6):
        after[widest - 1] = before[widest - 1]
        before[widest] = after[widest]
    return ((before + after) / 2 / counts)[where]
