"""Navigation in the plane: eight goals, a disc in the way, experts that pass it left or right at random.

Goals lie evenly on the unit circle, an episode begins opposite of its goal. A step moves a point by at most
``SPEED``; who touches the disc in the middle has failed, who comes within ``REACH`` of the goal has arrived.
Where the start lies exactly opposite, both ways are equally good: a policy that answers with the mean of its
demonstrations drives into the disc, so that here success *and* the use of both ways tell whether it knows
the distribution of actions. Everything is a pure function of arrays; rollouts compile into one scan.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from diffax import checks
from diffax.data.episodes import Episodes

TASKS = 8
RADIUS = 0.35  # of the disc
SPEED = 0.05  # length of the longest step
REACH = 0.1
STEPS = 64  # after which an episode has failed
DETOUR = 0.6  # how far from the straight way experts are half-way

# act(keys, position, task) -> the next actions (n, horizon, 2), in units of SPEED
Act = Callable[[Key[Array, "n"], Float[Array, "n 2"], Int[Array, "n"]], Float[Array, "n t 2"]]


class Rollout(NamedTuple):
    """``paths``: positions, of which the last repeats once an episode is over; ``left``: whether the episode
    passed the disc on the left, seen from its start."""

    paths: Float[Array, "n s 2"]
    success: Bool[Array, "n"]
    hit: Bool[Array, "n"]
    left: Bool[Array, "n"]


def goal(task: Int[Array, "*n"]) -> Float[Array, "*n 2"]:
    """Where the task ends."""
    angle = 2 * jnp.pi * task / TASKS
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def sentence(task: int) -> str:
    """The task in words."""
    places = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
    return f"Drive around the disc to the {places[task]}."


def start(key: Key[Array, ""], task: Int[Array, "n"], spread: float) -> Float[Array, "n 2"]:
    """Opposite of the goal, give or take ``spread``, a standard deviation."""
    return -goal(task) + spread * jax.random.normal(key, (*task.shape, 2))


def along(position: Float[Array, "*n 2"], task: Int[Array, "*n"]) -> Float[Array, "*n 2"]:
    """Coordinates towards the goal and, positive, to the left of it."""
    ahead = goal(task)
    left = jnp.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    return jnp.stack([jnp.sum(position * ahead, axis=-1), jnp.sum(position * left, axis=-1)], axis=-1)


def expert(
    position: Float[Array, "*n 2"], task: Int[Array, "*n"], side: Float[Array, "*n"]
) -> Float[Array, "*n 2"]:
    """Full speed along ``side * DETOUR * cos(pi p / 2)^2`` beside the straight way, p of which is done."""
    p, lateral = jnp.moveaxis(along(position, task), -1, 0)
    reached = jnp.clip(p, -1, 1)
    wanted = side * DETOUR * jnp.cos(jnp.pi * reached / 2) ** 2
    slope = -side * DETOUR * jnp.pi / 2 * jnp.sin(jnp.pi * reached)
    to_goal = goal(task) - position
    ahead = goal(task)
    across = jnp.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    on_way = ahead + (slope + 4 * (wanted - lateral))[..., None] * across
    direction = jnp.where((p > 0.8)[..., None], to_goal, on_way)
    return direction / jnp.maximum(jnp.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)


def move(position: Float[Array, "*n 2"], action: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    """One step; actions longer than 1 are shortened to it."""
    length = jnp.maximum(jnp.linalg.norm(action, axis=-1, keepdims=True), 1.0)
    return position + SPEED * action / length


def roll_out(
    act: Act,
    key: Key[Array, ""],
    task: Int[Array, "n"],
    execute: int,
    spread: float = 0.0,
    steps: int = STEPS,
) -> Rollout:
    """One episode for each entry of ``task``; of every answer the first ``execute`` actions are run."""
    checks.require(execute >= 1, "execute", execute, "an integer >= 1")
    first = start(jax.random.fold_in(key, 0), task, spread)
    over = jnp.zeros(task.shape, bool)

    def one(carry: tuple[Array, ...], inputs: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        (position, arrived, hit), (action, step) = carry, inputs
        stopped = arrived | hit | (step >= steps)
        moved = jnp.where(stopped[:, None], position, move(position, action))
        hit |= jnp.linalg.norm(moved, axis=-1) < RADIUS
        arrived |= ~hit & (jnp.linalg.norm(moved - goal(task), axis=-1) < REACH)
        return (moved, arrived, hit), moved

    def chunk(carry: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], Array]:
        keys = jax.random.split(jax.random.fold_in(key, 1 + index), task.shape[0])
        actions = act(keys, carry[0], task)
        allowed = f"1 to {actions.shape[1]}, the actions of an answer"
        checks.require(execute <= actions.shape[1], "execute", execute, allowed)
        run = jnp.swapaxes(actions[:, :execute], 0, 1), execute * index + jnp.arange(execute)
        return jax.lax.scan(one, carry, run)

    chunks = -(-steps // execute)
    (_, arrived, hit), paths = jax.lax.scan(chunk, (first, over, over), jnp.arange(chunks))
    paths = jnp.swapaxes(paths.reshape(-1, *first.shape)[:steps], 0, 1)
    paths = jnp.concatenate([first[:, None], paths], axis=1)
    lateral = along(paths, jnp.broadcast_to(task[:, None], paths.shape[:2]))[..., 1]
    return Rollout(paths, arrived, hit, lateral.mean(axis=1) > 0)


def demonstrations(seed: int, per_task: int, spread: float = 0.05) -> Episodes:
    """Experts' episodes of all tasks, each on a random side, until they arrive."""
    task = jnp.tile(jnp.arange(TASKS), per_task)
    key = jax.random.key(seed)
    side = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, task.shape), 1.0, -1.0)

    def act(keys: Key[Array, "n"], position: Array, task: Array) -> Array:
        return expert(position, task, side)[:, None]

    ran = jax.jit(lambda key: roll_out(act, key, task, 1, spread))(jax.random.fold_in(key, 2))
    paths = np.asarray(ran.paths)
    checks.require(
        bool(ran.success.all()), "demonstrations", int(ran.success.sum()), "experts that all arrive"
    )
    moves = np.diff(paths, axis=1)
    lengths = (np.abs(moves).sum(axis=-1) > 0).sum(axis=1)
    rows = np.arange(moves.shape[1]) < lengths[:, None]
    steps = {"state": paths[:, :-1][rows], "action": (moves / SPEED)[rows]}
    return Episodes(
        {k: v.astype(np.float32) for k, v in steps.items()}, np.cumsum(lengths), np.asarray(task, np.int32)
    )
