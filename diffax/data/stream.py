"""Endless batches that are drawn as they are needed, the same on any number of hosts."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from diffax.checks import require
from diffax.data.points import Mixture
from diffax.data.source import Batch

Draw = Callable[[np.random.Generator, int], Batch]  # (generator, rows) -> so many rows


class Stream(Iterator[Batch]):
    """Batches of ``batch_size`` rows of ``draw``; resumable, and shared between hosts.

    Batch k of all shards together is drawn from ``Philox(seed, k)``; shard i gets the contiguous rows
    ``i batch_size .. (i + 1) batch_size - 1`` of it, so the draws do not depend on the number of hosts.
    """

    def __init__(
        self, draw: Draw, batch_size: int, seed: int, *, shard_index: int = 0, shard_count: int = 1
    ) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "at least 1")
        require(0 <= shard_index < shard_count, "shard_index", shard_index, f"0 .. {shard_count - 1}")
        self._draw = draw
        self._rows = slice(shard_index * batch_size, (shard_index + 1) * batch_size)
        self._total, self._seed, self._step = batch_size * shard_count, seed, 0

    def __next__(self) -> Batch:
        generator = np.random.Generator(np.random.Philox(key=np.array([self._seed, self._step], np.uint64)))
        self._step += 1
        return {name: rows[self._rows] for name, rows in self._draw(generator, self._total).items()}

    def get_state(self) -> dict[str, int]:
        """The number of batches given out, and what they depend on."""
        return {"step": self._step, "seed": self._seed, "global_batch_size": self._total}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on after a state of :meth:`get_state`; ValueError for one of another stream."""
        for field, own in self.get_state().items():
            require(field == "step" or state.get(field) == own, f"state: {field}", state.get(field), str(own))
        self._step = int(state["step"])


class MixtureStream(Stream):
    """Batches ``{"x": float32 (batch_size, d)}`` of independent draws of a known mixture."""

    def __init__(
        self, mixture: Mixture, batch_size: int, seed: int, *, shard_index: int = 0, shard_count: int = 1
    ) -> None:
        weights = np.asarray(mixture.weights, np.float64)
        cumulative = np.cumsum(weights / weights.sum())
        means = np.asarray(mixture.means, np.float64)
        roots = np.linalg.cholesky(np.asarray(mixture.covs, np.float64))

        def draw(generator: np.random.Generator, rows: int) -> Batch:
            mode = np.searchsorted(cumulative, generator.random(rows), side="right")
            mode = np.minimum(mode, len(means) - 1)
            noise = generator.standard_normal((rows, means.shape[1]))
            return {"x": (means[mode] + np.einsum("nij,nj->ni", roots[mode], noise)).astype(np.float32)}

        super().__init__(draw, batch_size, seed, shard_index=shard_index, shard_count=shard_count)
