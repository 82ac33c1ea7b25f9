r"""Line integrals of a volume along rays: digitally reconstructed radiographs (DRRs).

``p = integral of mu dl``, in units of the volume's values times mm, for every ray from its source to its
target. Voxel (i, j, k) is centred at ``affine @ (i, j, k, 1)``; outside, the volume is zero.

=====================  ==========================================================  ======================
:func:`siddon`         voxels are boxes of one value: exact (Siddon 1985)          nx + ny + nz steps
:func:`trilinear`      interpolated between centres, samples within the volume     ``n_samples`` steps, 8 taps
:func:`joseph`         interpolated in the slabs that the beam crosses             one step a slab, 4 taps
=====================  ==========================================================  ======================

All are linear in the volume, work under ``jit`` and ``vmap`` and have gradients in volume, affine and pose
(in the pose, Siddon's misses what a ray along a wall of voxels jumps over: take another for registration).
Joseph's (1982) is by far the fastest, and loses accuracy for rays far from the axis of its slabs (45 degrees
are still fine).
"""

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
Lines = tuple[Array, Array, Array]  # starts and directions in voxels, (n, 3); lengths in mm, (n,)


def siddon(volume: Volume, affine: Affine, rays: Rays) -> Float[Array, "*rays"]:
    """Exact integrals of a volume whose voxels are boxes.

    From wall to wall by the nearest of three candidates (a DDA), so that nothing is sorted.
    """
    start, direction, length = lines_of(affine, rays)
    sizes = jnp.array(volume.shape)
    enter, leave = clipped(start, direction, -0.5, sizes - 0.5)
    step = jnp.where(direction >= 0, 1, -1)
    flat, strides = volume.ravel(), jnp.array([volume.shape[1] * volume.shape[2], volume.shape[2], 1])
    # just within, so that a ray that enters on a wall does not begin before it
    inside = start + direction * (enter + 1e-6 * (leave - enter))[:, None]
    index = jnp.clip(jnp.floor(inside + 0.5).astype(jnp.int32), 0, sizes - 1)

    def body(_: int | Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        index, here, total = state
        walls = (index + 0.5 * step - start) / direction
        nearest = jnp.min(walls, axis=1)
        there = jnp.clip(nearest, here, leave)
        inside = jnp.clip(index, 0, sizes - 1)
        value = flat[jnp.sum(inside * strides, axis=1)]
        index = index + jnp.where(walls <= nearest[:, None], step, 0)
        return index, there, total + (there - here) * value

    zero = jnp.zeros(start.shape[0], volume.dtype)
    _, _, total = jax.lax.fori_loop(0, sum(volume.shape), body, (index, enter, zero))
    return (total * length).reshape(rays.target.shape[:-1])


def trilinear(volume: Volume, affine: Affine, rays: Rays, n_samples: int = 256) -> Float[Array, "*rays"]:
    """The midpoint rule with ``n_samples`` between entry and exit, of values interpolated between centres."""
    require(n_samples >= 1, "n_samples", n_samples, "an integer >= 1")
    start, direction, length = lines_of(affine, rays)
    sizes = jnp.array(volume.shape)
    enter, leave = clipped(start, direction, -1.0, sizes)
    width = (leave - enter) / n_samples
    sample = _interpolator(volume)

    def body(number: int | Array, total: Array) -> Array:
        at = enter + (number + 0.5) * width
        return total + sample(start + at[:, None] * direction)

    total = jax.lax.fori_loop(0, n_samples, body, jnp.zeros(start.shape[0], volume.dtype))
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


def _interpolator(volume: Volume) -> Callable[[Array], Array]:
    """Values between centres, zero from one voxel outside on."""
    padded = jnp.pad(volume, 1)
    (_, ny, nz), flat = padded.shape, padded.ravel()
    last = jnp.array(padded.shape) - 2

    def sample(points: Array) -> Array:
        shifted = points + 1
        base = jnp.clip(jnp.floor(shifted).astype(jnp.int32), 0, last)
        share = jnp.clip(shifted - base, 0.0, 1.0)
        corner = (base[:, 0] * ny + base[:, 1]) * nz + base[:, 2]
        total = jnp.zeros(points.shape[0], volume.dtype)
        for i in (0, 1):
            for j in (0, 1):
                for k in (0, 1):
                    weight = jnp.ones(points.shape[0], volume.dtype)
                    for axis, upper in enumerate((i, j, k)):
                        weight = weight * (share[:, axis] if upper else 1 - share[:, axis])
                    total = total + weight * flat[corner + (i * ny + j) * nz + k]
        return total

    return sample


def _slabs(axis: int, volume: Volume, start: Array, direction: Array) -> Array:
    """The sum over slabs, in lengths of the ray."""
    first, second = (other for other in range(3) if other != axis)
    stack = jnp.pad(jnp.moveaxis(volume, axis, 0), ((0, 0), (1, 1), (1, 1)))
    slabs, rows, columns = stack.shape
    flat = stack.reshape(slabs, rows * columns)
    along, u, v = (direction[:, i] for i in (axis, first, second))
    start_u, start_v = start[:, first] + 1, start[:, second] + 1

    def body(slab: int | Array, total: Array) -> Array:
        at = (slab - start[:, axis]) / along
        x = jnp.clip(start_u + at * u, 0.0, rows - 1.0)
        y = jnp.clip(start_v + at * v, 0.0, columns - 1.0)
        i = jnp.minimum(x.astype(jnp.int32), rows - 2)
        j = jnp.minimum(y.astype(jnp.int32), columns - 2)
        p, q, corner = x - i, y - j, i * columns + j
        values = flat[slab]
        top = (1 - q) * values[corner] + q * values[corner + 1]
        bottom = (1 - q) * values[corner + columns] + q * values[corner + columns + 1]
        within = (at >= 0) & (at <= 1)
        return total + jnp.where(within, (1 - p) * top + p * bottom, 0)

    total = jax.lax.fori_loop(0, slabs, body, jnp.zeros(start.shape[0], volume.dtype))
    return total / jnp.abs(along)


def _all_views(
    project: Callable[..., Array], axes: tuple[int, ...], affine: Array, views: tuple[Rays, ...], x: Array
) -> Array:
    return jnp.stack(
        [
            project(x, affine, view, axis=axis) if axis >= 0 else project(x, affine, view)
            for axis, view in zip(axes, views, strict=True)
        ]
    )
