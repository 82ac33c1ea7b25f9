"""What the method learns: its data, and how samples of it are judged and drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffax.evaluation import Figure
from diffax.training import DataIterator
from diffax.training.sharding import Rules
from diffax.types import Params
from experiments.ddgan.method import Method
from experiments.progress import say


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


def as_figures(found: Mapping[str, Mapping[str, float]], **about: Any) -> list[Figure]:
    """``{group: {name: value}}`` as figures ``group/name`` (``name`` alone in the group "")."""
    return [
        Figure(f"{group}/{name}" if group else name, float(value), **about)
        for group, values in found.items()
        for name, value in values.items()
    ]


def as_rows(found: Mapping[str, Mapping[str, float]], own: str) -> list[dict[str, Any]]:
    """A row for each group, printed too; ``own`` names the group ""."""
    rows: Sequence[dict[str, Any]] = [{"name": group or own, **values} for group, values in found.items()]
    for row in rows:
        say(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return list(rows)
