"""Several networks that learn from the same batches."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from diffax.training import TrainState
from diffax.training.step import Batch, TrainStep


def together(steps: Mapping[str, TrainStep]) -> TrainStep:
    """One step of every network on the same batch: the same data and budget for each.

    Metrics are the first network's; of the others the losses, by their names. All stop where one's loss is
    not finite.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        nets, metrics = dict(state.nets), dict[str, Array]()
        for name, step in steps.items():
            new, found = step(state, batch)
            nets[name] = new.nets[name]
            finite = jnp.minimum(metrics.get("finite", jnp.ones(())), found["finite"])
            more = {f"loss_{name}": found["loss"]} if metrics else found
            metrics = {**metrics, **more, "finite": finite}
        return state.replace(step=state.step + 1, nets=nets), metrics

    return train_step
