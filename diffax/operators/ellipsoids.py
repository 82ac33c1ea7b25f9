r"""Radiographs of ellipsoids, exactly and without a volume: sums of chords times attenuation.

A ray from S to T, in the frame of an ellipsoid with semi-axes s and orientation Q (columns are axes), passes
a unit sphere: ``o = Q^T (S - C) / s``, ``v = Q^T u / s``, ``u = (T - S) / |T - S|``. With ``w = v / |v|`` and
``p = o - (o . w) w``, the chord is ``2 sqrt((1 - |p|)(1 + |p|)) / |v|`` mm, less what lies before S or behind
T. (The textbook's ``B^2 - A D`` loses 0.07 mm of 100 in float32 half a metre away; this form 0.005.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffax.operators.c_arm import Affine, Rays

Coordinates = Sequence[Array] | Array  # x, y and z


class Ellipsoids(NamedTuple):
    """``centre`` and semi-axes ``axes`` in mm, ``turn``: orientations, ``mu``: what each adds inside."""

    centre: Float[Array, "*n 3"]
    axes: Float[Array, "*n 3"]
    turn: Float[Array, "*n 3 3"]
    mu: Float[Array, "*n"]


def chords(bodies: Ellipsoids, rays: Rays) -> Float[Array, "n *rays"]:
    """The length in mm of each ray within each ellipsoid; gradients are finite everywhere."""
    lines = _lines(rays)
    return jax.lax.map(lambda one: _chord(one, *lines), bodies)


def render_ellipsoids(bodies: Ellipsoids, rays: Rays) -> Float[Array, "*rays"]:
    """``p = sum mu chord``: where ellipsoids overlap their values add."""
    lines = _lines(rays)

    def add(total: Array, one: Ellipsoids) -> tuple[Array, None]:
        return total + one.mu * _chord(one, *lines), None

    return jax.lax.scan(add, jnp.zeros(rays.target.shape[:-1]), bodies)[0]


def voxels(
    bodies: Ellipsoids, shape: tuple[int, int, int], affine: Affine, fine: int = 2
) -> Float[Array, "x y z"]:
    """The same bodies as a volume: the mean of ``fine``^3 points in every voxel."""
    steps = (jnp.arange(fine) + 0.5) / fine - 0.5
    axes = [(jnp.arange(n)[:, None] + steps).ravel() for n in shape]
    index = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    points = jnp.einsum("ab,xyzb->xyza", affine[:3, :3], index, precision="highest") + affine[:3, 3]
    total = jnp.zeros(points.shape[:-1])
    for body in range(bodies.mu.shape[0]):
        one = Ellipsoids(*(field[body] for field in bodies))
        local = jnp.einsum("ba,...b->...a", one.turn, points - one.centre, precision="highest") / one.axes
        total = total + one.mu * (jnp.sum(local**2, axis=-1) < 1)
    x, y, z = shape
    return total.reshape(x, fine, y, fine, z, fine).mean(axis=(1, 3, 5))


def _lines(rays: Rays) -> tuple[Coordinates, Coordinates, Array]:
    """Sources, unit directions, coordinate by coordinate, and lengths."""
    along = rays.target - rays.source
    length = jnp.sqrt(jnp.sum(along**2, axis=-1))
    return _split(rays.source), _split(along / length[..., None]), length


def _chord(one: Ellipsoids, source: Coordinates, unit: Coordinates, length: Array) -> Float[Array, "*rays"]:
    # coordinate by coordinate: XLA then makes one loop over the rays, sixteen times faster than with vectors
    matrix = one.turn.T / one.axes[:, None]
    o = [_dot(row, [s - c for s, c in zip(source, one.centre, strict=True)]) for row in matrix]
    v = [_dot(row, unit) for row in matrix]
    size = jnp.sqrt(_dot(v, v))
    w = [x / size for x in v]
    middle = -_dot(o, w)
    p = [a + middle * b for a, b in zip(o, w, strict=True)]
    p2 = _dot(p, p)
    hit = p2 < 1
    # a root has no slope at 0, and none is asked for outside
    away = jnp.where(p2 > 0, jnp.sqrt(jnp.where(hit & (p2 > 0), p2, 0.25)), 0.0)
    half = jnp.where(hit, jnp.sqrt(jnp.where(hit, (1 - away) * (1 + away), 1.0)), 0.0)
    ahead = jnp.clip(half + middle, 0.0, length * size) - jnp.clip(middle - half, 0.0, length * size)
    whole = (middle >= half) & (middle + half <= length * size)
    return jnp.where(whole, 2 * half, ahead) / size


def _split(points: Float[Array, "*n 3"]) -> Coordinates:
    return [points[..., axis] for axis in range(3)]


def _dot(a: Coordinates, b: Coordinates) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
