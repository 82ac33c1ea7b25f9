r"""Radiographs of ellipsoids, exactly and without a volume: sums of chords times attenuation.

A ray from S to T, in the frame of an ellipsoid with semi-axes s and orientation Q (columns are axes), passes
a unit sphere: ``o = Q^T (S - C) / s``, ``v = Q^T u / s``, ``u = (T - S) / |T - S|``. With ``w = v / |v|`` and
``p = o - (o . w) w``, the chord is ``2 sqrt((1 - |p|)(1 + |p|)) / |v|`` mm, less what lies before S or behind
T. (The textbook's ``B^2 - A D`` loses 0.07 mm of 100 in float32 half a metre away; this form 0.005.)
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffax.operators.c_arm import Affine, Rays


class Ellipsoids(NamedTuple):
    """``centre`` and semi-axes ``axes`` in mm, ``turn``: orientations, ``mu``: what each adds inside."""

    centre: Float[Array, "*n 3"]
    axes: Float[Array, "*n 3"]
    turn: Float[Array, "*n 3 3"]
    mu: Float[Array, "*n"]


def chords(bodies: Ellipsoids, rays: Rays) -> Float[Array, "..."]:
    """The length in mm of each ray within each ellipsoid, ``(n, *rays)``; gradients are finite everywhere."""
    along = rays.target - rays.source
    length = jnp.sqrt(jnp.sum(along**2, axis=-1))
    unit = along / length[..., None]
    o = _local(bodies, rays.source[None] - bodies.centre.reshape(-1, *[1] * (along.ndim - 1), 3))
    v = _local(bodies, unit[None])
    size = jnp.sqrt(jnp.sum(v**2, axis=-1))
    w = v / size[..., None]
    middle = -jnp.sum(o * w, axis=-1)
    p2 = jnp.sum((o + middle[..., None] * w) ** 2, axis=-1)
    hit = p2 < 1
    p = jnp.sqrt(
        jnp.where(hit & (p2 > 0), p2, 0.25)
    )  # its root has no slope at 0, and none is asked for outside
    p = jnp.where(p2 > 0, p, 0.0)
    half = jnp.where(hit, jnp.sqrt(jnp.where(hit, (1 - p) * (1 + p), 1.0)), 0.0)
    ahead = jnp.clip(half + middle, 0.0, length * size) - jnp.clip(middle - half, 0.0, length * size)
    whole = (middle >= half) & (middle + half <= length * size)
    return jnp.where(whole, 2 * half, ahead) / size


def render_ellipsoids(bodies: Ellipsoids, rays: Rays) -> Float[Array, "*rays"]:
    """``p = sum mu chord``: where ellipsoids overlap their values add."""
    return jnp.tensordot(bodies.mu, chords(bodies, rays), axes=1)


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
        one = Ellipsoids(*(field[body : body + 1] for field in bodies))
        inside = jnp.sum(_local(one, points[None] - one.centre[0]) ** 2, axis=-1)[0] < 1
        total = total + one.mu[0] * inside
    x, y, z = shape
    return total.reshape(x, fine, y, fine, z, fine).mean(axis=(1, 3, 5))


def _local(bodies: Ellipsoids, vectors: Array) -> Array:
    turned = jnp.einsum("nba,n...b->n...a", bodies.turn, jnp.broadcast_to(vectors, _wide(bodies, vectors)),
                        precision="highest")  # fmt: skip
    return turned / bodies.axes.reshape(-1, *[1] * (vectors.ndim - 2), 3)


def _wide(bodies: Ellipsoids, vectors: Array) -> tuple[int, ...]:
    return (bodies.mu.shape[0], *vectors.shape[1:])
