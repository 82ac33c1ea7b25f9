"""Demonstrations: episodes, the sentences of their tasks and where they came from; what every reader shares.

Readers differ in how a file is laid out. What they make of it does not: floats become float32, a field holds
a row each step, equal sentences are one task, and whatever no policy could learn from is refused by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from diffax.checks import require
from diffax.data.episodes import Episodes, check_episodes


class Demonstrations(NamedTuple):
    """``tasks``: the sentences that the numbers of ``episodes.task`` stand for; ``about``: what JSON can hold
    of where the episodes came from."""

    episodes: Episodes
    tasks: tuple[str, ...]
    about: Mapping[str, Any]


class Field(NamedTuple):
    """A field as a file declares it: the shape of one step, and the type."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Recording(NamedTuple):
    """One episode as it was found: what errors call it, its fields with "action" among them, its task."""

    name: str
    steps: Mapping[str, Shaped[np.ndarray, "n ..."]]
    sentence: str


def choose_fields(where: str, held: Mapping[str, Field], asked: Sequence[str]) -> list[str]:
    """The fields to read: those asked for, or every number and vector of numbers.

    Raises ValueError for a field that is not there, with those that are.
    """
    unknown = [name for name in asked if name not in held]
    require(not unknown, f"{where}: fields", unknown, "some of " + ", ".join(sorted(held)))
    return list(dict.fromkeys(asked)) or [name for name, field in held.items() if _is_vector(field)]


def _is_vector(field: Field) -> bool:
    return len(field.shape) <= 1 and 0 not in field.shape and field.dtype.kind in "fiu"


def as_numbers(where: str, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n ..."]:
    """Numbers with a row each step, floats as float32; ValueError for what is no array of numbers."""
    require(values.ndim >= 1, f"{where}: shape", values.shape, "a row each step")
    require(values.dtype.kind in "fiub", f"{where}: type", values.dtype.name, "numbers")
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return values.astype(np.float32)


def as_rows(where: str, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n d ..."]:
    """As :func:`as_numbers`, and one number a step as a vector of one."""
    values = as_numbers(where, values)
    return values[:, None] if values.ndim == 1 else values


def assemble(recordings: Sequence[Recording], about: Mapping[str, Any]) -> Demonstrations:
    """One after another; tasks are numbered as their sentences first occur.

    Raises ValueError for fields that differ in length within an episode, or in shape between episodes.
    """
    first = recordings[0].steps
    for name, steps, _ in recordings:
        rows = len(steps["action"])
        for field, values in steps.items():
            require(len(values) == rows, f"{name}: {field}: rows", len(values), f"{rows}, as of action")
            got, expected = values.shape[1:], first[field].shape[1:]
            require(got == expected, f"{name}: {field}: shape of a step", got, f"{expected}, as at first")
    joined = {field: np.concatenate([steps[field] for _, steps, _ in recordings]) for field in first}
    ends = np.cumsum([len(steps["action"]) for _, steps, _ in recordings])
    task, tasks = number_tasks(sentence for _, _, sentence in recordings)
    return Demonstrations(Episodes(joined, ends, task), tasks, about)


def number_tasks(sentences: Iterable[str]) -> tuple[Shaped[np.ndarray, "e"], tuple[str, ...]]:
    """A number for each sentence, and the sentences that the numbers stand for."""
    numbers: dict[str, int] = {}
    task = [numbers.setdefault(sentence, len(numbers)) for sentence in sentences]
    return np.asarray(task, np.int64), tuple(numbers)


def check_demonstrations(demonstrations: Demonstrations, where: str) -> Demonstrations:
    """Raise ``ValueError``, naming ``where`` and the field, for what no policy can learn from."""
    episodes, tasks, _ = demonstrations
    check_episodes(episodes, where)
    shape = episodes.steps["action"].shape
    require(len(shape) == 2, f"{where}: action: shape", shape, "(steps, actions)")
    for extreme in (int(episodes.task.min()), int(episodes.task.max())):
        require(0 <= extreme < len(tasks), f"{where}: task", extreme, f"numbers of its {len(tasks)} tasks")
    return demonstrations
