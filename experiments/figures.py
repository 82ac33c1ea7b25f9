"""What evaluations hand on: figures for ``result.json``, rows of a table, seconds by the clock."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from diffax.evaluation import Figure
from experiments.progress import say


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


def fastest(call: Callable[[], Array]) -> float:
    """Seconds of the fastest of three calls, or of as many as 5 s allow."""
    found: list[float] = []
    while len(found) < 3 and sum(found) < 5:
        begun = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begun)
    return min(found)
