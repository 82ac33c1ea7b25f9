"""What the method distils: a teacher, the network that student and fake score start as, data, figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Array, Key

from diffax.guidance import classifier_free
from diffax.processes import GaussianProcess
from diffax.training import DataIterator, TrainState
from diffax.training.sharding import Rules
from diffax.training.step import Batch
from diffax.types import Cond, DenoiseTransform, Params
from experiments.f_distill.method import Look, Method, condition


class Target(NamedTuple):
    """One kind of data under one configuration.

    * ``shape``: of one sample; ``field``: of a batch that holds them; ``sigma_data``: its scale;
    * ``process``: the teacher's, and the students'; ``labelled``: whether networks are told of classes or
      other conditions;
    * ``teacher(params, x, t, cond)``, unguided, and ``score(params, x, t, cond)``: estimates and activations;
    * ``start(key)``: parameters of the teacher's network, as which student and fake score start; where there
      is a ``begin`` their shapes alone, and ``begin(workdir)(key)`` makes them;
    * ``data(shard_index, shard_count)``: this process's rows of each step's batch;
    * ``evaluate(method, state, workdir)``: figures for ``result.json``, and pictures;
    * ``draw(method, state, workdir)``: samples as arrays and pictures;
    * ``prepare(batch, key)``: what is made of a batch on the device before it is learned from, or None;
    * ``condition(batch)``: what networks are told of it, by default labels; ``example``: this for one sample,
      where it is not a label; ``guide(scale)``: how guidance stresses it.
    """

    shape: tuple[int, ...]
    field: str
    sigma_data: float
    process: GaussianProcess
    labelled: bool
    teacher: Look
    score: Look
    start: "Start"
    begin: "Callable[[Path], Start | None] | None"
    data: Callable[[int, int], DataIterator]
    evaluate: Callable[[Method, TrainState, Path], Mapping[str, Any]]
    draw: Callable[[Method, TrainState, Path], None]
    rules: Rules = ()
    prepare: Callable[[Batch, Key[Array, ""]], Batch] | None = None
    condition: Callable[[Batch], Cond | None] = condition
    example: Cond | None = None
    guide: Callable[[float], DenoiseTransform] = classifier_free


Start = Callable[[Key[Array, ""]], Params]


def against(found: Mapping[str, Mapping[str, float]], teacher: str, network: str) -> dict[str, float]:
    """How the student stands to its teacher, and to the seconds of the network in many steps."""
    many, own = found[teacher], found[""]
    seconds = next(name for name in own if name.startswith("seconds_per_"))
    return {
        "teacher_frechet": many["frechet"],
        "teacher_nfe": many["nfe"],
        "speedup": found[network][seconds] / own[seconds],
    }
