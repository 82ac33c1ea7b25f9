"""What the method learns: its data, and how samples of it are judged and drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffax.training import DataIterator
from diffax.training.sharding import Rules
from diffax.types import Params
from experiments.ddgan.method import Method


class Target(NamedTuple):
    """One kind of data under one configuration.

    * ``shape``: of one sample; ``field``: of a batch that holds them;
    * ``data(shard_index, shard_count)``: this process's rows of each training batch;
    * ``evaluate(method, params, workdir)``: figures for ``result.json``, and pictures;
    * ``draw(method, params, step, workdir)``: samples as arrays and pictures.
    """

    shape: tuple[int, ...]
    field: str
    data: Callable[[int, int], DataIterator]
    evaluate: Callable[[Method, Params, Path], Mapping[str, Any]]
    draw: Callable[[Method, Params, int, Path], None]
    rules: Rules = ()
