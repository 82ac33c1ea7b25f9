"""Endless batches of a known mixture, drawn as they are needed."""

from collections.abc import Iterator, Mapping

import numpy as np

from diffax.checks import require
from diffax.data.points import Mixture
from diffax.data.source import Batch


class MixtureStream(Iterator[Batch]):
    """Batches ``{"x": float32 (batch_size, d)}`` of independent draws; resumable, and shared between hosts.

    Batch k of all shards together is drawn from ``Philox(seed, k)``; shard i gets the contiguous rows
    ``i batch_size .. (i + 1) batch_size - 1`` of it, so the draws do not depend on the number of hosts.
    """

    def __init__(
        self, mixture: Mixture, batch_size: int, seed: int, *, shard_index: int = 0, shard_count: int = 1
    ) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "at least 1")
        require(0 <= shard_index < shard_count, "shard_index", shard_index, f"0 .. {shard_count - 1}")
        weights = np.asarray(mixture.weights, np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._means = np.asarray(mixture.means, np.float64)
        self._roots = np.linalg.cholesky(np.asarray(mixture.covs, np.float64))
        self._rows = slice(shard_index * batch_size, (shard_index + 1) * batch_size)
        self._total, self._seed, self._step = batch_size * shard_count, seed, 0

    def __next__(self) -> Batch:
        generator = np.random.Generator(np.random.Philox(key=np.array([self._seed, self._step], np.uint64)))
        mode = np.searchsorted(self._cumulative, generator.random(self._total), side="right")
        mode = np.minimum(mode, len(self._means) - 1)[self._rows]
        noise = generator.standard_normal((self._total, self._means.shape[1]))[self._rows]
        x = self._means[mode] + np.einsum("nij,nj->ni", self._roots[mode], noise)
        self._step += 1
        return {"x": x.astype(np.float32)}

    def get_state(self) -> dict[str, int]:
        """The number of batches given out, and what they depend on."""
        return {"step": self._step, "seed": self._seed, "global_batch_size": self._total}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on after a state of :meth:`get_state`; ValueError for one of another stream."""
        for field, own in self.get_state().items():
            require(field == "step" or state.get(field) == own, f"state: {field}", state.get(field), str(own))
        self._step = int(state["step"])
