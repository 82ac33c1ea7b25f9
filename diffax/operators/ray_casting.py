r"""Line integrals of a volume along rays: digitally reconstructed radiographs (DRRs).

``p = integral of mu dl``, in units of the volume's values times mm, for every ray from its source to its
target. Voxel (i, j, k) is centred at ``affine @ (i, j, k, 1)``; outside, the volume is zero.

=====================  ==========================================================  ======================
:func:`siddon`         voxels are boxes of one value: exact (Siddon 1985)          one step a slab, 3 taps
:func:`trilinear`      interpolated between centres, samples within the volume     ``n_samples`` steps, 8 taps
:func:`joseph`         interpolated in the slabs that the beam crosses             one step a slab, 4 taps
=====================  ==========================================================  ======================

All are linear in the volume, work under ``jit`` and ``vmap`` and have gradients in volume, affine and pose
(in the pose, Siddon's misses what a ray along a wall of voxels jumps over: take another for registration).
Joseph's (1982) is by far the fastest, and loses accuracy for rays far from the axis of its slabs (45 degrees
are still fine).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffax.checks import require, require_one_of
from diffax.operators.base import LinearOperator
from diffax.operators.c_arm import Affine, Rays

_TINY = 1e-9  # of a direction, in voxels per length of the ray: parallel to an axis

Volume = Float[Array, "x y z"]
Axis = tuple[Array, Array, Array, Array]  # a ray's start and direction; the axis's size and stride
Lines = tuple[Array, Array, Array]  # starts and directions in voxels, (n, 3); lengths in mm, (n,)


def siddon(volume: Volume, affine: Affine, rays: Rays) -> Float[Array, "*rays"]:
    """Exact integrals of a volume whose voxels are boxes.

    From slab to slab across the axis that a ray runs along most. Within one it passes at most one wall of
    each other axis, so three voxels: no list of walls is sorted, and no step waits for the one before.
    """
    start, direction, length = lines_of(affine, rays)
    enter, leave = clipped(start, direction, -0.5, jnp.array(volume.shape) - 0.5)
    axes, flat = _steepest_first(volume.shape, start, direction), volume.ravel()

    def body(slab: int | Array, total: Array) -> Array:
        pieces = _pieces(slab, axes, enter, leave)
        return total + sum(share * _at(flat, index) for share, index in pieces)

    total = jax.lax.fori_loop(0, max(volume.shape), body, jnp.zeros_like(enter))
    return (total * length).reshape(rays.target.shape[:-1])


def trilinear(volume: Volume, affine: Affine, rays: Rays, n_samples: int = 256) -> Float[Array, "*rays"]:
    """The midpoint rule with ``n_samples`` between entry and exit, of values interpolated between centres."""
    require(n_samples >= 1, "n_samples", n_samples, "an integer >= 1")
    start, direction, length = lines_of(affine, rays)
    enter, leave = clipped(start, direction, -1.0, jnp.array(volume.shape))
    width = (leave - enter) / n_samples
    starts, directions = _columns(start), _columns(direction)
    padded = jnp.pad(volume, 1)
    flat = padded.ravel()  # not in the loop, where it would double the time of a gradient

    def body(number: int | Array, total: Array) -> Array:
        at = enter + (number + 0.5) * width
        points = [s + at * d for s, d in zip(starts, directions, strict=True)]
        return total + _interpolated(flat, padded.shape, points)

    total = jax.lax.fori_loop(0, n_samples, body, jnp.zeros_like(enter))
    return (total * width * length).reshape(rays.target.shape[:-1])


def joseph(volume: Volume, affine: Affine, rays: Rays, axis: int | None = None) -> Float[Array, "*rays"]:
    """One bilinear sample in every slab across an axis of the volume (0, 1, 2).

    ``axis=None`` takes the one along which the beam runs; under ``vmap`` over poses name it, or all three are
    worked out.
    """
    start, direction, length = lines_of(affine, rays)
    if axis is not None:
        require(axis in (0, 1, 2), "axis", axis, "0, 1 or 2")
        total = _slabs(axis, volume, start, direction)
    else:
        branches = [partial(_slabs, axis) for axis in range(3)]
        main = jnp.argmax(jnp.abs(jnp.mean(direction, axis=0)))
        total = jax.lax.switch(main, branches, volume, start, direction)
    return (total * length).reshape(rays.target.shape[:-1])


PROJECTORS: dict[str, Callable[..., Array]] = {"siddon": siddon, "trilinear": trilinear, "joseph": joseph}


def render(
    volume: Volume,
    affine: Affine,
    rays: Rays,
    method: str = "joseph",
    chunk: int = 0,
    **options: Any,
) -> Float[Array, "*rays"]:
    """Line integrals by one of :data:`PROJECTORS`; at most ``chunk`` rays at once (0: all).

    Chunks bound what a gradient must remember: each is worked out again on the way back.
    """
    require_one_of("method", method, PROJECTORS)
    project = partial(PROJECTORS[method], **options)
    if method == "joseph" and options.get("axis") is None and chunk:
        raise ValueError("axis: got None, allowed: 0, 1 or 2 where rays go in chunks")
    if not chunk:
        return project(volume, affine, rays)
    require(chunk >= 1, "chunk", chunk, "an integer >= 0")
    shape = rays.target.shape
    targets = rays.target.reshape(-1, 3)
    sources = jnp.broadcast_to(rays.source, shape).reshape(-1, 3)
    filled = -targets.shape[0] % chunk

    def pieces(points: Array) -> Array:
        return jnp.pad(points, ((0, filled), (0, 0)), mode="edge").reshape(-1, chunk, 3)

    found = jax.lax.map(
        jax.checkpoint(lambda pair: project(volume, affine, Rays(*pair))), (pieces(sources), pieces(targets))
    )
    return found.ravel()[: targets.shape[0]].reshape(shape[:-1])


def cone_beam(
    shape: Sequence[int],
    affine: Affine,
    views: Sequence[Rays],
    method: str = "joseph",
    **options: Any,
) -> LinearOperator:
    """Several views of volumes of a shape, ``(x, y, z) -> (views, rows, columns)``, and the backprojection.

    The adjoint is the transpose of the same sum, by ``jax.linear_transpose``. Joseph's slabs lie across the
    axis that each view's beam runs along.
    """
    require(len(views) >= 1, "views", 0, "at least 1")
    require_one_of("method", method, PROJECTORS)
    axes = tuple(main_axis(affine, view) if method == "joseph" else -1 for view in views)
    project = partial(PROJECTORS[method], **options)
    forward = jax.tree_util.Partial(partial(_all_views, project, axes), jnp.asarray(affine), tuple(views))
    rows = views[0].target.shape[:-1]
    return LinearOperator(forward, None, shape, (len(views), *rows))


def main_axis(affine: Affine, rays: Rays) -> int:
    """The axis of a volume along which a beam runs, for :func:`joseph`; not for traced values."""
    return int(jnp.argmax(jnp.abs(jnp.mean(lines_of(affine, rays)[1], axis=0))))


def lines_of(affine: Affine, rays: Rays) -> Lines:
    """Rays in voxels: where they start, ``target - start``, and their lengths in mm."""
    target = rays.target.reshape(-1, 3)
    source = jnp.broadcast_to(rays.source, rays.target.shape).reshape(-1, 3)
    length = jnp.sqrt(jnp.sum((target - source) ** 2, axis=-1))
    inverse = jnp.linalg.inv(jnp.asarray(affine, jnp.float32))
    start = _apply(inverse, source)
    direction = jnp.einsum("ab,nb->na", inverse[:3, :3], target - source, precision="highest")
    safe = jnp.where(jnp.abs(direction) < _TINY, jnp.where(direction < 0, -_TINY, _TINY), direction)
    return start, safe, length


def clipped(
    start: Float[Array, "n 3"], direction: Float[Array, "n 3"], low: Any, high: Any
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """The shares of each line, within [0, 1], at which it enters and leaves a box; equal where it misses."""
    first, second = (low - start) / direction, (high - start) / direction
    enter = jnp.maximum(jnp.max(jnp.minimum(first, second), axis=1), 0.0)
    leave = jnp.minimum(jnp.min(jnp.maximum(first, second), axis=1), 1.0)
    missed = leave <= enter
    return jnp.where(missed, 0.0, enter), jnp.where(missed, 0.0, leave)


def _apply(matrix: Array, points: Array) -> Array:
    return jnp.einsum("ab,nb->na", matrix[:3, :3], points, precision="highest") + matrix[:3, 3]


def _columns(points: Array) -> list[Array]:
    """Each coordinate by itself: loops over them are much faster than over (n, 3)."""
    return [points[:, axis] for axis in range(3)]


def _at(flat: Array, index: Array) -> Array:
    """Values by index, never beyond the last, whatever rays that are not numbers ask for."""
    return jnp.take(flat, index, mode="clip")


def _steepest_first(shape: Sequence[int], start: Array, direction: Array) -> list[Axis]:
    """The axes of a volume as each ray sees them: first the one along which it runs most."""
    order = (jnp.argmax(jnp.abs(direction), axis=1)[:, None] + jnp.arange(3)) % 3
    strides = jnp.array([shape[1] * shape[2], shape[2], 1])
    given = (start, direction, jnp.array(shape), strides)
    chosen = [jnp.take_along_axis(jnp.broadcast_to(one, order.shape), order, axis=1) for one in given]
    return list(zip(*map(_columns, chosen), strict=True))


def _pieces(slab: int | Array, axes: Sequence[Axis], enter: Array, leave: Array) -> list[tuple[Array, Array]]:
    """The three parts of each ray within a slab: shares of its length, and indices of voxels."""
    start, direction, size, stride = axes[0]
    low, high = (slab - 0.5 - start) / direction, (slab + 0.5 - start) / direction
    a = jnp.clip(jnp.minimum(low, high), enter, leave)
    b = jnp.clip(jnp.maximum(low, high), enter, leave)
    (u, u_next, at_u), (v, v_next, at_v) = (_crossing(*axis, a, b) for axis in axes[1:])
    middle = jnp.where(at_u <= at_v, u_next + v, u + v_next)
    near, far = jnp.minimum(at_u, at_v), jnp.maximum(at_u, at_v)
    base = jnp.minimum(slab, size - 1) * stride
    return [(near - a, base + u + v), (far - near, base + middle), (b - far, base + u_next + v_next)]


def _crossing(
    start: Array, direction: Array, size: Array, stride: Array, a: Array, b: Array
) -> tuple[Array, Array, Array]:
    """Along one axis: the voxel at ``a`` and at ``b``, as offsets, and where the wall between is passed.

    Rays are no steeper than one voxel of this axis in a slab. Rounding must not make it two.
    """
    first = jnp.clip(jnp.floor(start + a * direction + 0.5), 0, size - 1)
    last = jnp.clip(jnp.floor(start + b * direction + 0.5), 0, size - 1)
    last = jnp.clip(last, first - 1, first + 1)
    wall = jnp.clip(((first + last) / 2 - start) / direction, a, b)
    offsets = [voxel.astype(jnp.int32) * stride for voxel in (first, last)]
    return offsets[0], offsets[1], jnp.where(first == last, b, wall)


def _interpolated(flat: Array, shape: Sequence[int], places: Sequence[Array]) -> Array:
    """Multilinear values between the centres of a raveled array with a rim of zeros; zero outside.

    ``places``: one coordinate an axis, in voxels from the first within the rim.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    clear = [jnp.clip(x + 1, 0, size - 1.0) for x, size in zip(places, shape, strict=True)]
    before = [jnp.minimum(x.astype(jnp.int32), size - 2) for x, size in zip(clear, shape, strict=True)]
    shares = [x - whole for x, whole in zip(clear, before, strict=True)]
    corner = sum((i * stride for i, stride in zip(before, strides, strict=True)), jnp.int32(0))

    def from_axis(axis: int, offset: int) -> Array:
        if axis == len(shape):
            return _at(flat, corner + offset)
        first, second = (from_axis(axis + 1, offset + step) for step in (0, strides[axis]))
        return first + shares[axis] * (second - first)

    return from_axis(0, 0)


def _slabs(axis: int, volume: Volume, start: Array, direction: Array) -> Array:
    """The sum over slabs, in lengths of the ray."""
    first, second = (other for other in range(3) if other != axis)
    starts, directions = _columns(start), _columns(direction)

    def body(total: Array, slab: tuple[Array, Array]) -> tuple[Array, None]:
        number, values = slab[0], jnp.pad(slab[1], 1)
        at = (number - starts[axis]) / directions[axis]
        points = [starts[k] + at * directions[k] for k in (first, second)]
        found = _interpolated(values.ravel(), values.shape, points)
        return total + jnp.where((at >= 0) & (at <= 1), found, 0), None

    stack = jnp.moveaxis(volume, axis, 0)
    body = jax.checkpoint(body, prevent_cse=False)  # a gradient works weights out again: three times as fast
    total, _ = jax.lax.scan(body, jnp.zeros_like(starts[0]), (jnp.arange(len(stack)), stack))
    return total / jnp.abs(directions[axis])


def _all_views(
    project: Callable[..., Array], axes: tuple[int, ...], affine: Array, views: tuple[Rays, ...], x: Array
) -> Array:
    return jnp.stack(
        [
            project(x, affine, view, axis=axis) if axis >= 0 else project(x, affine, view)
            for axis, view in zip(axes, views, strict=True)
        ]
    )
