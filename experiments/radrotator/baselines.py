"""What a user would do without a model: show the mean patient, or turn the radiograph as a flat picture."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax.data.curves import to_unit
from diffax.evaluation import psnr
from diffax.training.step import Batch
from experiments.radrotator.views import Pairs, Render, flat_views, make_arm, rotations_of, signed

DEPTHS = tuple(float(d) for d in range(-80, 81, 10))  # mm to the front, of which the best is taken


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
