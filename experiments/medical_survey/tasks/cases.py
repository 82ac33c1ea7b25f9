"""Cases: the embedded phantoms, or a folder of images that belong together by their file names.

A batch of cases is a mapping of fields: images in [-1, 1] under the name of their modality ("A", "B", or a
folder's), ``mask`` and ``annotators`` of 0 and 1, ``label``. Phantoms are numbers until a step renders them
on the device; folders are read into memory.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffax import checks
from diffax.data import Stream, phantoms
from diffax.training import DataIterator
from diffax.training.step import Batch
from experiments import build
from experiments.medical_survey.tasks import folders

PHANTOMS = "phantoms"


class Cases(NamedTuple):
    """Where cases come from.

    ``data``: this process's rows of each training batch; ``prepare``: what a step makes of them;
    ``held_out(n, label)``: cases that no training saw, of one label if that is given; ``training(n, label)``:
    some that it did. ``split``: what the held-out ones are called in results.
    """

    data: Callable[[int, int], DataIterator]
    prepare: Callable[[Batch], Batch]
    held_out: Callable[..., Batch]
    training: Callable[..., Batch]
    split: str


def open_cases(config: ConfigDict, needs: Sequence[str]) -> Cases:
    """The cases of a configuration; ``ValueError`` for a folder without a field that is needed."""
    if config.data.source == PHANTOMS:
        return _phantoms(config)
    checks.require(config.data.dims == 2, "config.data.dims", config.data.dims, "2 for a folder: its slices")
    train = folders.read(config.data, "train", needs)
    count = len(next(iter(train.values())))
    return Cases(
        data=_stream(config, count, lambda rows: {k: v[rows] for k, v in train.items()}),
        prepare=lambda batch: batch,
        held_out=lambda n, label=None: _first(folders.read(config.data, "test", needs), n, label),
        training=lambda n, label=None: _first(train, n, label),
        split="held-out files",
    )


def blank(config: ConfigDict, needs: Sequence[str]) -> Batch:
    """Two cases of the configuration's shapes, for a network's parameters."""
    if config.data.source == PHANTOMS:
        return _render(config, jnp.arange(2), None)
    return {k: v[:2] for k, v in folders.read(config.data, "train", needs).items()}


def _phantoms(config: ConfigDict) -> Cases:
    heads = config.data.heads
    checks.require(1 <= heads <= phantoms.HELD_OUT, "config.data.heads", heads, f"1 .. {phantoms.HELD_OUT}")

    def some(first: int, n: int, label: int | None) -> Batch:
        # with a lesion or without one: other heads, not the same ones healed
        numbers = first + jnp.arange(n) + (0 if label != 0 else n)
        share = None if label is None else float(label)
        return {k: np.asarray(v) for k, v in _render(config, numbers, share).items()}

    return Cases(
        data=_stream(config, heads, lambda rows: {"number": rows.astype(np.uint32)}),
        prepare=lambda batch: _render(config, batch["number"], None),
        held_out=lambda n, label=None: some(phantoms.HELD_OUT, n, label),
        training=lambda n, label=None: some(0, n, label),
        split="heads that are not trained on",
    )


def _render(config: ConfigDict, numbers: jax.Array, share: float | None) -> Batch:
    data = config.data
    share = data.lesion_prob if share is None else share
    return phantoms.render(
        phantoms.phantom_key(numbers), data.size, data.dims, lesion_prob=share, noise=data.noise
    )


def _stream(
    config: ConfigDict, count: int, take: Callable[[np.ndarray], Batch]
) -> Callable[[int, int], DataIterator]:
    """Rows drawn anew for every batch; ``take`` makes a batch of their indices."""

    def draw(generator: np.random.Generator, rows: int) -> Batch:
        return take(generator.integers(count, size=rows))

    def data(index: int, shards: int) -> DataIterator:
        rows = build.shard_rows(config, shards)
        return Stream(draw, rows, config.seed, shard_index=index, shard_count=shards)

    return data


def _first(cases: Batch, n: int, label: int | None) -> Batch:
    """The first n cases, of one label if that is given."""
    if label is not None:
        chosen = np.flatnonzero(cases["label"] == label)
        checks.require(
            len(chosen) > 0, "config.data.source: cases of label", label, "at least one of each label"
        )
        cases = {k: v[chosen] for k, v in cases.items()}
    return {k: v[:n] for k, v in cases.items()}
