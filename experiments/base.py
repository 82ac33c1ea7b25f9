"""What an experiment is to the launcher."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax.training import DataIterator
from diffax.training.loop import Validate
from diffax.training.sharding import Rules
from diffax.training.state import TrainState
from diffax.training.step import TrainStep

Init = Callable[[Key[Array, ""]], TrainState]


class Experiment(NamedTuple):
    """The pure parts of one method under one configuration.

    * ``init(key)``: the state at step 0;
    * ``train_step(state, batch)``: pure, jitted by the loop;
    * ``data(shard_index, shard_count)``: this process's rows of each training batch, resumable;
    * ``evaluate(state, workdir)``: the figures for ``result.json``; may write pictures;
    * ``draw(state, workdir)``: samples as pictures and arrays;
    * ``export(state, workdir)``: what others can use without this program; or None;
    * ``validate(state)``: figures of a checkpoint, by which the best one may be kept; or None;
    * ``begin(workdir)``: the ``init`` of a run that starts from other runs, which it reads or trains first
      (None where SIGTERM came before that was done); ``init`` itself then says shapes alone. Or None;
    * ``sharding_rules``: pairs (regular expression on parameter paths, tactic) for a mesh.

    On several hosts every process calls all of these in the same order; ``workdir`` is the run's folder on
    the first and a scratch folder on the others, so that what is written needs no care.
    """

    init: Init
    train_step: TrainStep
    data: Callable[[int, int], DataIterator]
    evaluate: Callable[[TrainState, Path], Mapping[str, Any]]
    draw: Callable[[TrainState, Path], None]
    export: Callable[[TrainState, Path], None] | None = None
    validate: Validate | None = None
    begin: Callable[[Path], Init | None] | None = None
    sharding_rules: Rules = ()


MakeExperiment = Callable[[ConfigDict], Experiment]
