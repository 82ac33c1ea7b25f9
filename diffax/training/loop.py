"""The training loop: steps, logging, checkpoints, exact resume, on any mesh and any number of hosts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from diffax import checks
from diffax.training import sharding
from diffax.training.feed import DataIterator, Fed, Feed
from diffax.training.monitor import Monitor, Tracer, batch_size, flops_of
from diffax.training.preemption import Preemption
from diffax.training.sharding import Rules
from diffax.training.state import TrainState
from diffax.training.step import TrainStep, guard


class NonFiniteLossError(RuntimeError):
    """Training met a loss or a gradient that is not finite; the message names the step and its key."""


@runtime_checkable
class Checkpoints(Protocol):
    """Where states are kept (see :mod:`diffax.io.checkpoint`)."""

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None: ...
    def save(self, state: TrainState, data: Any, metrics: Mapping[str, float] | None = None) -> None: ...
    def wait(self) -> None: ...


Hook = Callable[[int, Mapping[str, float], TrainState], None]  # (step, metrics, state), at every log
Watch = Callable[[int, Mapping[str, float]], None]  # (step, figures of speed and memory), at every log
Validate = Callable[[TrainState], Mapping[str, float]]
Init = Callable[[], TrainState]


def train(
    state: TrainState | Init,
    train_step: TrainStep,
    data: DataIterator,
    *,
    num_steps: int,
    checkpoints: Checkpoints | None = None,
    log_every: int = 50,
    checkpoint_every: int = 1000,
    hooks: Sequence[Hook] = (),
    watches: Sequence[Watch] = (),
    validate: Validate | None = None,
    mesh: Mesh | None = None,
    rules: Rules = (),
    profile: str | Path | None = None,
) -> TrainState:
    """Train to ``num_steps``, continuing from the newest whole checkpoint where there is one.

    A resumed run is the undisturbed one bit for bit: the checkpoint holds every network, the key and the
    position in the data. On SIGTERM the step is finished, a checkpoint saved, and the state returned early.

    Args:
      state: the state at step 0 (donated), or a function that makes it: then it is made where it belongs,
        and not at all where a checkpoint takes its place.
      data: this process's rows of each global batch (:func:`diffax.training.data_shard`).
      hooks: get the metrics averaged over the steps since the last log; watches: speed and memory.
      validate: figures of a state, measured at every checkpoint, logged and kept with it.
      mesh, rules: where the batch and the state lie (:func:`diffax.training.tree_shardings`); default: the
        first device.
      profile: folder for a trace of a few steps, for TensorBoard or Perfetto.

    Raises:
      NonFiniteLossError: at the first loss or gradient that is not finite; the state before that step is
        saved first.
    """
    checks.require(num_steps >= 0, "num_steps", num_steps, "an integer >= 0")
    checks.require(log_every >= 1, "log_every", log_every, "an integer >= 1")
    checks.require(checkpoint_every >= 1, "checkpoint_every", checkpoint_every, "an integer >= 1")
    mesh = mesh or sharding.make_mesh(1)
    state = begin(state, data, checkpoints, mesh, rules)
    run = _Run(checkpoints, hooks, watches, validate, num_steps, log_every, checkpoint_every)
    if int(state.step) < num_steps:
        with Preemption() as preemption, Feed(data, mesh) as feed, Tracer(profile) as tracer:
            state = run.steps(state, train_step, feed, mesh, preemption, tracer)
    if checkpoints is not None:
        checkpoints.wait()
    return state


def begin(
    state: TrainState | Init, data: DataIterator, checkpoints: Checkpoints | None, mesh: Mesh, rules: Rules
) -> TrainState:
    """The newest checkpoint's state, with the data set back to its position; else the given one, placed."""
    if callable(state):
        template = sharding.abstract(state, mesh, rules)
    else:
        template = state = jax.device_put(state, sharding.tree_shardings(state, mesh, rules))
    found = checkpoints.restore(template) if checkpoints is not None else None
    if found is not None:
        restored, position = found
        data.set_state(position)
        return restored
    return sharding.create(state, mesh, rules) if callable(state) else state


class _Row(NamedTuple):
    """What a step left on the devices, and where the data goes on after it."""

    metrics: Mapping[str, Array]
    position: Any


class _Run(NamedTuple):
    """One call of :func:`train`: what to do, and when."""

    checkpoints: Checkpoints | None
    hooks: Sequence[Hook]
    watches: Sequence[Watch]
    validate: Validate | None
    num_steps: int
    log_every: int
    checkpoint_every: int

    def steps(
        self,
        state: TrainState,
        train_step: TrainStep,
        feed: Feed,
        mesh: Mesh,
        preempted: Preemption,
        tracer: Tracer,
    ) -> TrainState:
        """All steps that are left, or as many as there is time for."""
        start, before, fed = int(state.step), feed.position, feed.take()
        alive = sharding.place(np.True_, sharding.replicated(mesh))
        step_fn, flops = _compile(train_step, state, fed, alive)
        monitor = Monitor(batch_size(fed.batch), flops, list(mesh.devices.flat), feed.waited)
        rows: list[_Row] = []
        for step in range(start + 1, self.num_steps + 1):
            fed = fed if step == start + 1 else feed.take()
            tracer.at(step - start)
            state, metrics, alive = step_fn(state, fed.batch, alive)
            rows.append(_Row(metrics, fed.position))
            last = preempted(step) or step == self.num_steps
            save = self.checkpoints is not None and (last or step % self.checkpoint_every == 0)
            if last or save or step % self.log_every == 0:
                means = self.collect(rows, state, before)
                figures = monitor.read(len(rows), feed.waited)
                self.report(step, state, means, figures, fed.position if save else None)
                before, rows = fed.position, []
                monitor.skip(feed.waited)
            if last:
                break
        return state

    def report(
        self, step: int, state: TrainState, means: dict[str, float], figures: dict[str, float], position: Any
    ) -> None:
        """Tell the hooks and watches; save where there is a position to save."""
        if position is not None and self.validate is not None:
            means = means | dict(self.validate(state))
        for hook in self.hooks:
            hook(step, means, state)
        for watch in self.watches:
            watch(step, figures)
        if position is not None and self.checkpoints is not None:
            self.checkpoints.save(state, position, means)

    def collect(self, rows: Sequence[_Row], state: TrainState, before: Any) -> dict[str, float]:
        """Fetch the metrics since the last log and average them; stop at the first that is not finite."""
        fetched: list[dict[str, np.ndarray]] = jax.device_get([dict(row.metrics) for row in rows])
        for index, row in enumerate(fetched):
            if row.get("finite", 1.0) < 1.0:
                self.give_up(row, state, rows[index - 1].position if index else before)
        return {
            name: float(np.mean([row[name] for row in fetched])) for name in fetched[0] if name != "finite"
        }

    def give_up(self, row: Mapping[str, np.ndarray], state: TrainState, position: Any) -> None:
        """Save the state as it was before the step that failed, and say what happened."""
        step = int(state.step)  # the guard froze the state there
        saved = "not saved: there is no checkpoint folder"
        if self.checkpoints is not None:
            self.checkpoints.save(state, position)
            self.checkpoints.wait()
            saved = f"saved as checkpoint {step}"
        key = jax.device_get(jax.random.key_data(state.step_key())).tolist()
        norm = f" (gradient norm {float(row['grad_norm'])})" if "grad_norm" in row else ""
        raise NonFiniteLossError(
            f"loss: got {float(row['loss'])} at training step {step + 1}{norm}, allowed: finite numbers; the "
            f"step's key is fold_in(state.key, {step}) = {key}, and the state before it is {saved}"
        )


def _compile(train_step: TrainStep, state: TrainState, fed: Fed, alive: Array) -> tuple[Any, float | None]:
    """The guarded step, compiled once for these shapes and placements, and its arithmetic."""
    everywhere = alive.sharding
    step = jax.jit(
        guard(train_step),
        donate_argnums=0,
        out_shardings=(sharding.shardings_of(state), everywhere, everywhere),
    )
    lowered = step.lower(state, fed.batch, alive)
    return lowered.compile(), flops_of(lowered)
