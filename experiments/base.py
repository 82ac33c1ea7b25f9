"""What an experiment is to the launcher."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax.training.loop import DataIterator
from diffax.training.state import TrainState
from diffax.training.step import TrainStep


class Experiment(NamedTuple):
    """The pure parts of one method under one configuration.

    * ``init(key)``: the state at step 0;
    * ``train_step(state, batch)``: pure, jitted by the loop;
    * ``data()``: the training batches, resumable;
    * ``evaluate(state, workdir)``: the figures for ``result.json``; may write pictures;
    * ``draw(state, workdir)``: samples as pictures and arrays;
    * ``sharding_rules``: pairs (regular expression on parameter paths, tactic) for a mesh.
    """

    init: Callable[[Key[Array, ""]], TrainState]
    train_step: TrainStep
    data: Callable[[], DataIterator]
    evaluate: Callable[[TrainState, Path], Mapping[str, Any]]
    draw: Callable[[TrainState, Path], None]
    sharding_rules: Sequence[tuple[str, str]] = ()


MakeExperiment = Callable[[ConfigDict], Experiment]
