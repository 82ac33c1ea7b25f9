"""How near a volume comes to another, in all three planes, and to its measurements."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.evaluation import psnr, ssim
from diffax.inverse import LinearProblem, residual
from diffax.operators import norm

PLANES = {"axial": 2, "coronal": 0, "sagittal": 1}  # the axis of (rows, columns, slices) that is left out
DATA_RANGE = 1.0


def agreement(
    images: Float[Array | np.ndarray, "h w n"], truth: Float[Array | np.ndarray, "h w n"]
) -> dict[str, float]:
    """PSNR of the volume, and PSNR and SSIM by plane (means over slices), of images clipped to [0, 1].

    The data range is 1. Means are over slices with some voxel above 0.05 in the truth: empty ones agree too
    easily. SSIM mirrors slices at their edges, with a window of 11 pixels, or 7 where a slice is narrower.
    """
    x, y = jnp.clip(jnp.asarray(images), 0, 1), jnp.asarray(truth)
    found = {"psnr": volume_psnr(images, truth)}
    for plane, axis in PLANES.items():
        slices = np.moveaxis(np.asarray(y), axis, 0)
        shown = slices.reshape(len(slices), -1).max(axis=1) > 0.05
        pair = [jnp.moveaxis(v, axis, 0)[shown][..., None] for v in (x, y)]
        found[f"psnr_{plane}"] = float(jnp.mean(psnr(*pair, data_range=DATA_RANGE)))
        window = 11 if min(pair[0].shape[1:3]) >= 11 else 7
        if min(pair[0].shape[1:3]) >= window:
            values = _ssim(*pair, window)
            found[f"ssim_{plane}"] = float(values)
    return found


def volume_psnr(
    images: Float[Array | np.ndarray, "h w n"], truth: Float[Array | np.ndarray, "h w n"]
) -> float:
    """``-10 log10`` of the mean squared error of a volume, clipped to [0, 1]."""
    x, y = jnp.clip(jnp.asarray(images), 0, 1), jnp.asarray(truth)
    return float(psnr(x[None, ..., None], y[None, ..., None], data_range=DATA_RANGE)[0])


def misfit(problem: LinearProblem, images: Float[Array | np.ndarray, "h w n"]) -> float:
    """``|A x - y| / |y|``."""
    return float(_misfit(problem, jnp.asarray(images)))


def roughness(images: Float[Array | np.ndarray, "h w n"]) -> float:
    """The mean size of differences from slice to slice."""
    return float(np.mean(np.abs(np.diff(np.asarray(images), axis=2)))) if images.shape[2] > 1 else 0.0


@jax.jit
def _misfit(problem: LinearProblem, images: Array) -> Array:
    return norm(residual(problem, images)) / norm(problem.y)


@partial(jax.jit, static_argnums=2)
def _ssim(x: Array, y: Array, window: int) -> Array:
    return jnp.mean(ssim(x, y, data_range=DATA_RANGE, window=window, padding="reflect"))
