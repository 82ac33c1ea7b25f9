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
from jaxtyping import Array

from diffax.checks import require, require_one_of
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
