r"""Operators on images (rows, columns, slices): holes, blur, fewer pixels, differences between neighbours.

Each acts on all slices at once, and none scatters. Lengths are pixels. The axes are named as in the plane
of a picture: "y" runs along the rows' index, "x" along the columns' and "z" along the slices'.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from diffax.checks import is_concrete, require, require_one_of
from diffax.operators.base import LinearOperator

_AXES = {"y": 0, "x": 1, "z": 2}


def differences(shape: Sequence[int], axis: str, dtype: Any = jnp.float32) -> LinearOperator:
    r"""Forward differences along one axis with Neumann ends: ``x[i + 1] - x[i]``, and 0 at the last place.

    Args:
      shape: (rows, columns, slices); the result has this shape too.
      axis: "x" (columns), "y" (rows) or "z" (slices). An axis of length one gives zeros.

    The adjoint is ``y[i - 1] - y[i]`` without the terms that reach outside, the negative divergence of
    Chambolle, 2004 (doi 10.1023/B:JMIV.0000011325.36760.1e). ``||D|| = 2 cos(pi / 2n)`` for n places.
    Raises ``ValueError`` for another axis or shape.
    """
    shape = _image_shape(shape)
    require_one_of("axis", axis, _AXES)
    forward, adjoint = (_once(function, axis=_AXES[axis]) for function in (_difference, _difference_adjoint))
    return LinearOperator(forward, adjoint, shape, shape, dtype)


def gradient(
    shape: Sequence[int], axes: Sequence[str] = ("x", "y", "z"), dtype: Any = jnp.float32
) -> LinearOperator:
    r"""Several :func:`differences`, stacked on a new first axis in the order of ``axes``.

    ``shape`` (rows, columns, slices) -> (axes, rows, columns, slices). The norm is :func:`gradient_norm`,
    at most ``2 sqrt(number of axes)``. Raises ``ValueError`` for other axes, none, or one twice.
    """
    shape, numbers = _image_shape(shape), _axis_numbers(axes)
    forward, adjoint = (_once(function, axes=numbers) for function in (_gradient, _gradient_adjoint))
    return LinearOperator(forward, adjoint, shape, (len(numbers), *shape), dtype)


def gradient_norm(shape: Sequence[int], axes: Sequence[str] = ("x", "y", "z")) -> float:
    r"""``||gradient(shape, axes)|| = sqrt(sum_a 4 cos^2(pi / 2 n_a))``, exactly.

    ``D^T D`` along an axis has the cosines of the DCT-II as eigenvectors, with eigenvalues
    ``4 sin^2(pi k / 2n)``, k < n; products of these cosines serve all axes at once. Raises as ``gradient``.
    """
    lengths = [_image_shape(shape)[axis] for axis in _axis_numbers(axes)]
    return math.sqrt(sum(4 * math.cos(math.pi / (2 * n)) ** 2 for n in lengths))


def _difference(x: Array, axis: int) -> Array:
    return _padded(jnp.diff(x, axis=axis), axis, 0, 1)


def _difference_adjoint(y: Array, axis: int) -> Array:
    inside = jax.lax.slice_in_dim(y, 0, y.shape[axis] - 1, axis=axis)  # the last row of D is zero
    return _padded(inside, axis, 1, 0) - _padded(inside, axis, 0, 1)


def _gradient(x: Array, axes: tuple[int, ...]) -> Array:
    return jnp.stack([_difference(x, axis) for axis in axes])


def _gradient_adjoint(y: Array, axes: tuple[int, ...]) -> Array:
    terms = [_difference_adjoint(y[i], axis) for i, axis in enumerate(axes)]
    return functools.reduce(jnp.add, terms)


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    widths = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)


def masked(
    mask: Shaped[Array | np.ndarray, "..."], shape: Sequence[int], dtype: Any = jnp.float32
) -> LinearOperator:
    r"""``x -> mask x``: pixels that are not seen become 0 (inpainting); its own adjoint, norm 1.

    ``mask`` is (rows, columns) or (rows, columns, slices), booleans or 0 and 1, true where a pixel is seen.
    Raises ``ValueError`` for another shape or other numbers.
    """
    keep = jax.tree_util.Partial(_masked, mask_table(mask, shape))
    return LinearOperator(keep, keep, shape, shape, dtype)


def blur(
    kernel: Float[Array | np.ndarray, "h w"],
    shape: Sequence[int],
    boundary: str = "circular",
    dtype: Any = jnp.float32,
) -> LinearOperator:
    r"""Convolution of each slice: ``y[i, j] = sum_{k, l} kernel[k, l] x[i - k + h // 2, j - l + w // 2]``.

    Args:
      kernel: real, (h, w); its centre is at ``(h // 2, w // 2)``. :func:`gaussian_kernel` makes one.
      shape: (rows, columns, slices) of real images and of the result.
      boundary: what lies outside. "circular": the other side (by FFT; the kernel must not be larger than
        the image); "zero": nothing (by direct convolution, for small kernels).

    The norm is at most ``sum |kernel|``. Raises ``ValueError`` for another boundary, too large a kernel, and
    complex types.
    """
    rows, columns, _ = shape = _image_shape(shape)
    require_one_of("boundary", boundary, ("circular", "zero"))
    require(jnp.issubdtype(dtype, jnp.floating), "dtype", jnp.dtype(dtype).name, "a real floating type")
    kernel = jnp.asarray(kernel, dtype)
    if boundary == "zero":
        direct, back = (jax.tree_util.Partial(function, kernel) for function in (_convolve, _correlate))
        return LinearOperator(direct, back, shape, shape, dtype)
    fits = kernel.shape[0] <= rows and kernel.shape[1] <= columns
    require(fits, "kernel: shape", kernel.shape, f"at most {shape[:2]} with a circular boundary")
    height, width = kernel.shape
    spread = jnp.pad(kernel, ((0, rows - height), (0, columns - width)))
    transfer = jnp.fft.rfft2(jnp.roll(spread, (-(height // 2), -(width // 2)), (0, 1)))[..., None]
    forward, adjoint = (jax.tree_util.Partial(_filter, table) for table in (transfer, transfer.conj()))
    return LinearOperator(forward, adjoint, shape, shape, dtype)


def downsample(factor: int, shape: Sequence[int], dtype: Any = jnp.float32) -> LinearOperator:
    r"""Means of squares of ``factor x factor`` pixels: (rows, columns, slices) -> rows and columns / factor.

    The adjoint repeats each value over its square, divided by ``factor^2``; ``A A^H = 1 / factor^2``, so
    the norm is ``1 / factor``. Raises ``ValueError`` unless the factor divides rows and columns.
    """
    rows, columns, slices = shape = _image_shape(shape)
    divides = factor >= 1 and rows % factor == columns % factor == 0
    require(divides, "factor", factor, f"a divisor of rows and columns of {shape}")
    forward, adjoint = (_once(function, factor=factor) for function in (_pool, _spread))
    small = (rows // factor, columns // factor, slices)
    return LinearOperator(forward, adjoint, shape, small, dtype)


def gaussian_kernel(sigma: float, size: int | None = None) -> Float[np.ndarray, "size size"]:
    r"""``exp(-(i^2 + j^2) / 2 sigma^2)`` on ``size x size`` pixels about the middle, with sum 1.

    ``sigma`` in pixels. ``size`` is odd; None reaches to 3 sigma. Raises ``ValueError`` for others.
    """
    require(sigma > 0, "sigma", sigma, "above 0, in pixels")
    size = 2 * math.ceil(3 * sigma) + 1 if size is None else size
    require(size >= 1 and size % 2 == 1, "size", size, "an odd number of pixels")
    profile = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    kernel = np.outer(profile, profile)
    return (kernel / kernel.sum()).astype(np.float32)


def mask_table(
    mask: Shaped[Array | np.ndarray, "..."], shape: Sequence[int]
) -> Float[Array, "rows columns slices"]:
    """A mask of (rows, columns) or (rows, columns, slices) as ones and zeros, checked against ``shape``.

    The last axis of the result has length one where the mask is the same for all slices.
    """
    rows, columns, slices = _image_shape(shape)
    allowed = f"{(rows, columns)} or {(rows, columns, slices)}, as the images"
    require(mask.shape in ((rows, columns), (rows, columns, slices)), "mask: shape", mask.shape, allowed)
    if is_concrete(mask):
        found = np.unique(np.asarray(mask))[:5]
        require(set(found.tolist()) <= {0, 1}, "mask", found.tolist(), "booleans, or 0 and 1")
    table = jnp.asarray(mask, jnp.float32)
    return table if table.ndim == 3 else table[..., None]


def _masked(mask: Array, x: Array) -> Array:
    return mask.astype(x.dtype) * x


def _filter(transfer: Array, x: Array) -> Array:
    return jnp.fft.irfft2(transfer * jnp.fft.rfft2(x, axes=(0, 1)), s=x.shape[:2], axes=(0, 1))


def _convolve(kernel: Array, x: Array) -> Array:
    return _slide(kernel[::-1, ::-1], [(n - 1 - n // 2, n // 2) for n in kernel.shape], x)


def _correlate(kernel: Array, y: Array) -> Array:
    return _slide(kernel, [(n // 2, n - 1 - n // 2) for n in kernel.shape], y)


def _slide(kernel: Array, widths: list[tuple[int, int]], x: Array) -> Array:
    """Correlation of each slice; at full precision, where accelerators would round to 10 bits."""
    layout = ("HWNC", "HWIO", "HWNC")
    window, images = kernel[:, :, None, None].astype(x.dtype), x[..., None]
    return jax.lax.conv_general_dilated(
        images, window, (1, 1), widths, dimension_numbers=layout, precision=jax.lax.Precision.HIGHEST
    )[..., 0]


def _pool(x: Array, factor: int) -> Array:
    rows, columns, slices = x.shape
    return x.reshape(rows // factor, factor, columns // factor, factor, slices).mean((1, 3))


def _spread(y: Array, factor: int) -> Array:
    rows, columns, slices = y.shape
    apart = jnp.broadcast_to(y[:, None, :, None], (rows, factor, columns, factor, slices))
    return apart.reshape(rows * factor, columns * factor, slices) / factor**2


@functools.cache
def _once(function: Callable[..., Array], **fixed: Any) -> Callable[[Array], Array]:
    """One object for equal numbers: operators made twice then share a compiled program."""
    return functools.partial(function, **fixed)


def _axis_numbers(axes: Sequence[str]) -> tuple[int, ...]:
    different = 1 <= len(axes) == len(set(axes))
    require(different and set(axes) <= set(_AXES), "axes", axes, "one or several of x, y, z, each once")
    return tuple(_AXES[axis] for axis in axes)


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    valid = len(shape) == 3 and min(shape) >= 1
    require(valid, "shape", tuple(shape), "(rows, columns, slices), each at least 1")
    rows, columns, slices = shape
    return rows, columns, slices
