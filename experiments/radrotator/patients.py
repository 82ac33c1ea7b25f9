"""Patients as rows of batches: numbers of procedural bodies, or volumes of attenuation from CT."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffax import checks
from diffax.data import Batch, Stream, open_cubes
from diffax.data.bodies import BODIES, HELD_OUT
from diffax.operators.attenuation import hu_to_mu_with_bone
from experiments import build

Rows = Callable[[np.random.Generator, int], Batch]


def make_data(config: ConfigDict) -> Callable[[int, int], Stream]:
    """Endless rows for training, ``config.data.pairs`` pairs of views to be drawn of each.

    ``number`` says which body it is, or how a volume is deformed; none below ``HELD_OUT`` is trained on.
    Files are read when the rows are asked for: a trained network is used without them.
    """
    pairs = config.data.pairs

    def data(index: int, count: int) -> Stream:
        size = build.shard_rows(config, count)
        allowed = f"a multiple of {count} processes times config.data.pairs, {pairs}"
        checks.require(size % pairs == 0, "config.train.batch_size", config.train.batch_size, allowed)
        draw = _bodies if is_procedural(config) else _volumes(read_cubes(config, "train"))
        return Stream(draw, size // pairs, config.seed, shard_index=index, shard_count=count)

    return data


def held_out_rows(config: ConfigDict, count: int) -> Batch:
    """``count`` patients that no training saw: other bodies, or other volumes under other deformations.

    Where a folder has neither test/ nor ``config.data.holdout``, the volumes are those of the training.
    """
    number = np.arange(count, dtype=np.uint32)
    if is_procedural(config):
        return {"number": number}
    cubes = read_cubes(config, "test")
    return {"number": number, "volume": np.stack([cubes[i % len(cubes)] for i in range(count)])}


def is_procedural(config: ConfigDict) -> bool:
    """Whether the data is drawn and not read."""
    return config.data.source in BODIES


def read_cubes(config: ConfigDict, split: str) -> list[np.ndarray]:
    """The attenuation (per mm, float16) of a split's volumes on the configuration's grid."""
    own = config.data
    found = open_cubes(
        own.source, split if own.holdout or has_splits(own.source) else "all",
        size=own.size, field_mm=own.field_mm, holdout=own.holdout or None,
    )  # fmt: skip
    return [np.asarray(hu_to_mu_with_bone(jnp.asarray(cube)), np.float16) for cube in found]


def has_splits(path: str) -> bool:
    """Whether a folder has train/ and test/."""
    return all((Path(path) / name).is_dir() for name in ("train", "test"))


def _bodies(generator: np.random.Generator, rows: int) -> Batch:
    return {"number": generator.integers(HELD_OUT, 2**32, rows, dtype=np.uint32)}


def _volumes(cubes: Sequence[np.ndarray]) -> Rows:
    def draw(generator: np.random.Generator, rows: int) -> Batch:
        chosen = generator.integers(len(cubes), size=rows)
        return _bodies(generator, rows) | {"volume": np.stack([cubes[i] for i in chosen])}

    return draw
