"""One pure training step of one network: gradients, update, averages, a guard against non-finite losses."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from diffax import checks
from diffax.training import ema
from diffax.training.ema import EmaSchedule
from diffax.training.state import NetState, TrainState
from diffax.types import Params

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
LossFn = Callable[[Params, Batch, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
GuardedStep = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics, Array]]


def init_net(
    params: Params, optimizer: optax.GradientTransformation, averages: Mapping[str, EmaSchedule]
) -> NetState:
    """A network's state at step 0; every average starts at the parameters (as its own copy)."""
    copies = {name: jax.tree.map(jnp.copy, params) for name in averages}
    return NetState(params=params, opt_state=optimizer.init(params), ema=copies)


def apply_gradients(net: NetState, grads: Params, optimizer: optax.GradientTransformation) -> NetState:
    """The network after one step of its optimiser; averages are left as they are."""
    updates, opt_state = optimizer.update(grads, net.opt_state, net.params)
    return net.replace(params=optax.apply_updates(net.params, updates), opt_state=opt_state)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    averages: Mapping[str, EmaSchedule],
    *,
    net: str = "model",
    accumulate: int = 1,
) -> TrainStep:
    """A pure ``(state, batch) -> (state, metrics)`` for the named network. Jit it with the state donated.

    ``loss_fn(params, batch, key)`` returns the loss and metrics. With ``accumulate = k`` the batch is cut
    into k parts (every k-th row) taken one after another, and their gradients averaged.

    ``metrics["finite"]`` is 0 where the loss or the gradient is not finite; :func:`guard` acts on it.
    """
    checks.require(accumulate >= 1, "accumulate", accumulate, "an integer >= 1")

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        old = state.nets[net]
        grads, metrics = _gradients(loss_fn, old.params, batch, state.step_key(), accumulate)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        new = apply_gradients(old, grads, optimizer)
        new = new.replace(ema=ema.update(new.ema, new.params, averages, state.step))
        metrics = {**metrics, "grad_norm": norm, "finite": finite.astype(jnp.float32)}
        return state.replace(step=state.step + 1, nets={**state.nets, net: new}), metrics

    return train_step


def guard(train_step: TrainStep) -> GuardedStep:
    """``(state, batch, alive) -> (state, metrics, alive)``: the last good state survives a bad step.

    From the first step on whose ``metrics["finite"]`` is 0 (or whose loss is not finite), ``alive`` is false
    and the state stays as it was before that step, its counter included, however many steps follow.
    """

    def step(state: TrainState, batch: Batch, alive: Bool[Array, ""]) -> tuple[TrainState, Metrics, Array]:
        new, metrics = train_step(state, batch)
        finite = (metrics.get("finite", 1.0) > 0) & jnp.isfinite(metrics["loss"])
        alive = alive & finite
        kept = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, state)
        return kept, {**metrics, "finite": finite.astype(jnp.float32)}, alive

    return step


def split_batch(batch: Batch, parts: int, field: str) -> dict[str, Array]:
    """A batch as ``parts`` smaller ones of every parts-th row, stacked on a new first axis, to be scanned.

    Raises ``ValueError``, naming the option ``field`` that asks for so many, where they are not equal.
    """
    return {name: _pieces(leaf, parts, field) for name, leaf in batch.items()}


def _gradients(
    loss_fn: LossFn, params: Params, batch: Batch, key: Key[Array, ""], parts: int
) -> tuple[Params, Metrics]:
    """The gradient and metrics, averaged over ``parts`` equal pieces of the batch."""

    def one(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Params, Metrics]:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key)
        return grads, {"loss": loss, **metrics}

    if parts == 1:
        return one(params, batch, key)
    pieces = split_batch(batch, parts, "accumulate")

    def add(total: Any, piece: tuple[Array, Batch]) -> tuple[Any, None]:
        index, part = piece
        return jax.tree.map(jnp.add, total, one(params, part, jax.random.fold_in(key, index))), None

    shapes = jax.eval_shape(one, params, jax.tree.map(lambda leaf: leaf[0], pieces), key)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, (jnp.arange(parts), pieces))
    return jax.tree.map(lambda leaf: leaf / parts, total)


def _pieces(leaf: Array, parts: int, field: str) -> Array:
    checks.require(leaf.shape[0] % parts == 0, "batch", leaf.shape[0], f"a multiple of {field}={parts}")
    # every parts-th row: a batch that is split over devices stays split evenly, without communication
    return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)
