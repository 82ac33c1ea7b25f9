"""Pairs of views of a patient: the radiograph that is given, the one asked for, the rotation between.

A patient is a row of a batch: the number of a procedural body, or a volume of attenuation. Views are rendered
on the device, at angles that are drawn there, so every step sees new ones.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.data.bodies import body_key, draw_body
from diffax.data.cubes import cube_affine, random_warp
from diffax.data.curves import random_curves, to_unit
from diffax.operators import CArm, Pose, c_arm, render_ellipsoids
from diffax.operators.ray_casting import joseph
from diffax.training.step import Batch
from experiments.radrotator.patients import is_procedural

INPUT_VIEWS = ("ap", "random")
FRONT_AXIS = 1  # the axis of a volume along which the beam runs, at all angles that are trained

Rotations = Float[Array, "v 3 3"]
# (one row of a batch, rotations of the C-arm) -> line integrals
Render = Callable[[Batch, Rotations], Float[Array, "v h w"]]


class Pairs(NamedTuple):
    """Radiographs in [-1, 1], bone bright; ``vector``: yaw, pitch, roll as shares of the trained range."""

    image: Float[Array, "b h w 1"]
    target: Float[Array, "b h w 1"]
    vector: Float[Array, "b 3"]


def make_arm(config: ConfigDict) -> CArm:
    """The C-arm whose square detector sees ``field_mm`` at the isocentre."""
    arm = config.arm
    checks.require(arm.field_mm > 0, "config.arm.field_mm", arm.field_mm, "above 0 mm")
    spacing = arm.field_mm / arm.size * arm.sdd / arm.sod
    return c_arm.check_c_arm(CArm(arm.sdd, arm.sod, spacing, (arm.size, arm.size)))


def make_render(config: ConfigDict) -> Render:
    """How rows of this configuration's data become line integrals."""
    arm = make_arm(config)
    if is_procedural(config):
        return partial(_render_body, arm, config.data.source)
    return partial(_render_volume, arm, config.data.field_mm, config.data.warp)


def _render_body(arm: CArm, kind: str, row: Batch, rotations: Rotations) -> Float[Array, "v h w"]:
    body = draw_body(body_key(row["number"]), kind)
    return render_views(arm, lambda rays: render_ellipsoids(body.ellipsoids, rays), rotations)


def _render_volume(
    arm: CArm, field_mm: float, warp: float, row: Batch, rotations: Rotations
) -> Float[Array, "v h w"]:
    volume = row["volume"].astype(jnp.float32)
    affine = cube_affine(volume.shape[0], field_mm)
    if warp:
        volume = random_warp(jax.random.fold_in(jax.random.key(1), row["number"]), volume, warp)
    return render_views(arm, lambda rays: joseph(volume, affine, rays, FRONT_AXIS), rotations)


def render_views(
    arm: CArm, project: Callable[[c_arm.Rays], Array], rotations: Rotations
) -> Float[Array, "v h w"]:
    """Line integrals by ``project`` for each rotation of the C-arm about the isocentre, the origin."""
    return jax.vmap(lambda turn: project(c_arm.rays(arm, Pose(turn, jnp.zeros(3)))))(rotations)


@partial(jax.jit, static_argnums=0)
def flat_views(
    arm: CArm, images: Float[Array, "b h w 1"], turns: Float[Array, "b 3 3"], depth: Array | float
) -> Float[Array, "b h w 1"]:
    """The input as if the patient were a sheet parallel to the detector, ``depth`` mm before the isocentre.

    The best that warping the picture can do: each pixel's ray meets the sheet, and shows what the input
    shows there.
    """

    def one(image: Array, turn: Array) -> Array:
        rays = c_arm.rays(arm, Pose(turn, jnp.zeros(3)))
        along = rays.target - rays.source
        share = (depth - rays.source[..., 1]) / along[..., 1]
        points = rays.source + share[..., None] * along
        at = c_arm.project(arm, Pose(jnp.eye(3), jnp.zeros(3)), points)
        return map_coordinates(image, [at[..., 0], at[..., 1]], order=1, mode="nearest")

    return jax.vmap(one)(images[..., 0], turns)[..., None]


def rotations_of(angles: Float[Array, "n 3"]) -> Float[Array, "n 3 3"]:
    """Of yaw, pitch and roll in degrees."""
    return jax.vmap(lambda a: c_arm.rotation(a[0], a[1], a[2]))(angles)


def draw_angles(key: Key[Array, ""], count: int, limit: float) -> Float[Array, "n 3"]:
    """Uniform in [-limit, limit]^3, in degrees."""
    return jax.random.uniform(key, (count, 3), minval=-limit, maxval=limit)


def make_draw(config: ConfigDict, render: Render) -> Callable[[Batch, Key[Array, ""]], Pairs]:
    """Rows and a key to ``config.data.pairs`` pairs of each row, under common curves of grey values.

    The input is the view from the front ("ap"), or from an angle of its own within the same range
    ("random"); the target's rotation is the input's times the one that is asked for.
    """
    limit, count, curve = config.angles.limit, config.data.pairs, config.curve
    checks.require_one_of("config.input_view", config.input_view, INPUT_VIEWS)
    checks.require(0 < limit < 45, "config.angles.limit", limit, "above 0 and below 45 degrees")
    checks.require(count >= 1, "config.data.pairs", count, "an integer >= 1")
    low, high = curve.points
    checks.require(3 <= low <= high, "config.curve.points", (low, high), "(low, high) with 3 <= low <= high")

    def of_row(row: Batch, key: Key[Array, ""]) -> tuple[Array, Array, Array]:
        ask_key, from_key = jax.random.split(key)
        angles = draw_angles(ask_key, count, limit)
        given = limit * (config.input_view == "random")
        start = rotations_of(draw_angles(from_key, count, given))
        views = render(row, jnp.concatenate([start, start @ rotations_of(angles)]))
        return views[:count], views[count:], angles / limit

    def draw(batch: Batch, key: Key[Array, ""]) -> Pairs:
        rows = len(next(iter(batch.values())))
        view_key, curve_key = jax.random.split(key)
        found = jax.vmap(of_row)(batch, jax.random.split(view_key, rows))
        image, target, vector = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in found)
        image, target = random_curves(
            curve_key,
            (to_unit(image), to_unit(target)),
            points=tuple(curve.points),
            probability=curve.probability,
        )
        return Pairs(signed(image), signed(target), vector)

    return draw


def signed(images: Float[Array, "b h w"]) -> Float[Array, "b h w 1"]:
    """From [0, 1] to [-1, 1], with a channel."""
    return 2 * images[..., None] - 1
