"""The training loop: steps, logging, checkpoints, exact resume."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from diffax import checks
from diffax.training.sharding import batch_sharding, replicate
from diffax.training.state import TrainState
from diffax.training.step import Batch, TrainStep


class NonFiniteLossError(RuntimeError):
    """Training met a loss or a gradient that is not finite; the message names the step."""


@runtime_checkable
class DataIterator(Protocol):
    """Batches whose position can be saved."""

    def __next__(self) -> Mapping[str, np.ndarray]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


@runtime_checkable
class Checkpoints(Protocol):
    """Where states are kept (see :mod:`diffax.io.checkpoint`)."""

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None: ...
    def save(self, state: TrainState, data: Any) -> None: ...
    def wait(self) -> None: ...


Hook = Callable[[int, Mapping[str, float], TrainState], None]  # (step, metrics, state), at every log


def train(
    state: TrainState,
    train_step: TrainStep,
    data: DataIterator,
    *,
    num_steps: int,
    checkpoints: Checkpoints | None = None,
    log_every: int = 50,
    checkpoint_every: int = 1000,
    hooks: Sequence[Hook] = (),
    mesh: Mesh | None = None,
) -> TrainState:
    """Train to ``num_steps``, continuing from the newest whole checkpoint where there is one.

    A resumed run is the undisturbed one bit for bit: the checkpoint holds every network, the key and the
    position in the data. ``hooks`` get the metrics averaged over the steps since the last log. With a
    ``mesh`` the batch is split over its first axis, the state copied to every device. ``state`` is donated.
    Raises :class:`NonFiniteLossError` at the first loss that is not finite.
    """
    checks.require(num_steps >= 0, "num_steps", num_steps, "an integer >= 0")
    checks.require(log_every >= 1, "log_every", log_every, "an integer >= 1")
    state = resume(state, data, checkpoints)
    if mesh is not None:
        state = replicate(state, mesh)
    step_fn = jax.jit(train_step, donate_argnums=0)
    pending: list[Mapping[str, Array]] = []
    for step in range(int(state.step) + 1, num_steps + 1):
        state, metrics = step_fn(state, _place(next(data), mesh))
        pending.append(metrics)
        last = step == num_steps
        save = checkpoints is not None and (last or step % checkpoint_every == 0)
        if last or save or step % log_every == 0:
            means = _collect(pending, step)
            pending = []
            for hook in hooks:
                hook(step, means, state)
        if save and checkpoints is not None:
            checkpoints.save(state, data.get_state())
    if checkpoints is not None:
        checkpoints.wait()
    return state


def resume(state: TrainState, data: DataIterator, checkpoints: Checkpoints | None) -> TrainState:
    """The newest checkpoint's state, with the data set back to its position; the given state otherwise."""
    found = checkpoints.restore(state) if checkpoints is not None else None
    if found is None:
        return state
    state, position = found
    data.set_state(position)
    return state


def _place(batch: Mapping[str, Any], mesh: Mesh | None) -> Batch:
    """The entries that can go to a device (file names and the like stay behind), split over the mesh."""
    numbers = {name: value for name, value in batch.items() if np.asarray(value).dtype.kind in "fiub"}
    return jax.device_put(numbers, None if mesh is None else batch_sharding(mesh))


def _collect(pending: Sequence[Mapping[str, Array]], last_step: int) -> dict[str, float]:
    """Fetch the metrics since the last log and average them; stop at the first that is not finite."""
    rows: list[dict[str, np.ndarray]] = jax.device_get(list(pending))
    for offset, row in enumerate(rows):
        if row.get("finite", 1.0) < 1.0:
            step = last_step - len(rows) + 1 + offset
            raise NonFiniteLossError(
                f"loss: got {float(row['loss'])} at training step {step} "
                f"(gradient norm {float(row['grad_norm'])}), allowed: finite numbers"
            )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "finite"}
