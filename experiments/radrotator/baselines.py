"""What a user would do without a model: show the mean patient, or turn the radiograph as a flat picture."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax.data.curves import to_unit
from diffax.evaluation import psnr
from diffax.operators import CArm, Pose, c_arm
from diffax.training.step import Batch
from experiments.radrotator.views import Pairs, Render, make_arm, rotations_of, signed

DEPTHS = tuple(float(d) for d in range(-80, 81, 10))  # mm to the front, of which the best is taken


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


def best_depth(config: ConfigDict, pairs: Pairs) -> float:
    """The sheet's depth with the highest PSNR on pairs of training patients."""
    arm, turns = make_arm(config), rotations_of(pairs.vector * config.angles.limit)
    found = [
        float(jnp.mean(psnr(flat_views(arm, pairs.image, turns, depth), pairs.target, data_range=2.0)))
        for depth in DEPTHS
    ]
    return DEPTHS[max(range(len(found)), key=found.__getitem__)]


def mean_views(render: Render, rows: Batch, turns: Float[Array, "b 3 3"]) -> Float[Array, "b h w 1"]:
    """The mean of training patients at each of the angles that are asked for."""

    @jax.jit
    def at(turn: Array) -> Array:
        views = jax.vmap(lambda row: render(row, turn[None])[0])(rows)
        return jnp.mean(to_unit(views), axis=0)

    return signed(jnp.stack([at(turn) for turn in turns]))
