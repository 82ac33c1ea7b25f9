"""Batches from a source: shuffled anew each epoch, shared between hosts, and resumable to the batch.

The order is a pure function of (seed, epoch, position): one permutation per epoch of the whole source.
With S shards and batches of b, the k-th global batch is the positions k B .. (k+1) B - 1, B = S b, of
which shard i takes k B + i b .. k B + (i+1) b - 1. Augmentation draws its randomness from the position
too. So the shards' k-th batches, joined in the order of the shards, are the k-th batch of a single shard
with batches of B, item for item: noise that is drawn per row of the global batch meets the same items
whatever the number of hosts. The state of a pipeline is one integer, equal on all hosts.
"""

import functools
import math
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Int

from diffax.checks import require
from diffax.data.augment import Augmentation
from diffax.data.optional import optional_import
from diffax.data.source import Batch, Item, Source, stack

# grain's shuffle walks a cycle of 2^16 indices: below this many items, 0.1 to 5 milliseconds for each
_SMALL = 1024


class Pipeline(Iterator[Batch]):
    """An iterator over batches with ``get_state``, ``set_state`` and ``close``; made by :func:`pipeline`.

    Threads and worker processes start at the first batch and end with ``close``, at the end of a ``with``
    block, of the data, or of the program, and after an error: the next call tries the same batch again.
    """

    def __init__(
        self, dataset: Any, threads: int, workers: int, identity: Mapping[str, int], steps_per_epoch: int
    ) -> None:
        self._dataset, self._threads, self._workers = dataset, threads, workers
        self._identity = dict(identity)
        self.steps_per_epoch = steps_per_epoch
        self._step = 0
        self._closed = False
        self._running: list[Any] = []  # grain's iterator, once started
        # also at exit, where grain's own clean-up comes too late to be quiet; the list must not lead to self
        weakref.finalize(self, _stop, self._running)

    def __next__(self) -> Batch:
        require(not self._closed, "pipeline", "closed", "one that is open")
        try:
            if self._step >= len(self._dataset):
                raise StopIteration
            if not self._running:
                self._running.append(_start(self._dataset, self._step, self._threads, self._workers))
            batch = next(self._running[0])
            if self._workers:  # out of the shared memory, which must not outlive the workers
                batch = {field: np.array(value) for field, value in batch.items()}
        except BaseException:
            _stop(self._running)
            raise
        self._step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The number of batches given out and what the order depends on, as plain integers for JSON."""
        return {"step": self._step, **self._identity}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continue with exactly the batch that would have followed ``get_state``.

        The number of shards may change if the global batch size stays; threads and workers always may.
        Raises ``ValueError`` if the state comes from another seed, global batch size or number of items:
        items would silently be repeated or left out.
        """
        for field, expected in self._identity.items():
            require(state.get(field) == expected, f"state: {field}", state.get(field), f"{expected}, as now")
        step = state.get("step", -1)
        require(isinstance(step, int) and step >= 0, "state: step", step, "an integer of at least 0")
        _stop(self._running)
        self._step = step

    def close(self) -> None:
        """End the threads and worker processes; no batch can be drawn afterwards."""
        self._closed = True
        _stop(self._running)

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pipeline(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    shard_index: int = 0,
    shard_count: int = 1,
    augment: Augmentation | Sequence[Augmentation] | None = None,
    shuffle: bool = True,
    repeat: bool = True,
    drop_remainder: bool = True,
    threads: int = 0,
    workers: int = 0,
) -> Pipeline:
    """Iterate over batches ``{field: array (batch_size, ...)}`` of a source.

    Args:
      batch_size: items per batch of *this* shard.
      seed: of the permutations and of the augmentations, in [0, 2^32).
      shard_index, shard_count: this host's part, e.g. ``jax.process_index()``, ``jax.process_count()``.
      augment: functions ``(item, rng) -> item``, applied in order.
      repeat: go on for ever, each epoch in another order; else one pass.
      drop_remainder: leave out an epoch's last items where they fill no global batch (other ones each
        epoch), so that all shards make the same number of steps. If false, one pass is complete to the
        item: the last global batch is smaller, and a later shard may have a part of it or none.
      threads: threads that read ahead, of each process; the batches are the same for any number. Worth it
        for slow disks, and for decoders that let other threads run.
      workers: processes that read ahead; the batches are the same for any number. Worth it where reading
        takes longer than a training step. The source and the augmentations are pickled into each, an
        array in memory is copied into each; starting takes seconds. Up to eight batches of each worker lie in
        shared memory (``docker run --shm-size``). A program that uses them needs the
        ``if __name__ == "__main__":`` that ``multiprocessing`` asks for.

    Raises ``ValueError`` for numbers out of range, and where a shard would have no batch at all.
    """
    _check(len(source), batch_size, seed, shard_index, shard_count)
    require(threads >= 0, "threads", threads, "at least 0")
    require(workers >= 0, "workers", workers, "at least 0")
    batches = _global_batches(len(source), batch_size, shard_count, repeat, drop_remainder)
    grain = optional_import("grain.python")
    data = _shuffled(grain, source, seed) if shuffle else grain.MapDataset.source(source).seed(seed)
    for function in _as_sequence(augment):
        data = data.random_map(function)  # before slicing: the randomness belongs to the global position
    data = data.batch(batch_size, drop_remainder=drop_remainder)
    data = data.slice(slice(shard_index, batches, shard_count))
    identity = {
        "items": len(source),
        "global_batch_size": batch_size * shard_count,
        "seed": seed,
        "shuffle": int(shuffle),
        "drop_remainder": int(drop_remainder),
    }
    return Pipeline(data.repeat() if repeat else data, threads, workers, identity, len(data))


def epoch(source: Source, batch_size: int) -> Iterator[Batch]:
    """One pass in the source's own order, the last batch smaller: for evaluation."""
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    for start in range(0, len(source), batch_size):
        items = [source[i] for i in range(start, min(start + batch_size, len(source)))]
        yield stack(items)


def _shuffled(grain: Any, source: Source, seed: int) -> Any:
    """The items in another order each epoch, as a ``grain.MapDataset`` of unbounded index."""
    n = len(source)
    if n >= _SMALL:
        return grain.MapDataset.source(source).seed(seed).shuffle()

    order = grain.MapDataset.range(n).seed(seed)
    return order.map_with_index(functools.partial(_shuffled_item, source, seed))


def _shuffled_item(source: Source, seed: int, index: int, _: Any) -> Item:
    epoch, position = divmod(index, len(source))
    return source[int(_permutation(seed, epoch, len(source))[position])]


@functools.lru_cache(maxsize=32)  # threads that read ahead may be in two epochs at once
def _permutation(seed: int, epoch: int, n: int) -> Int[np.ndarray, "n"]:
    # raw bits: numpy keeps them between versions, as it does not for Generator.permutation
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(bits, kind="stable")


def _global_batches(n: int, batch_size: int, shards: int, repeat: bool, drop_remainder: bool) -> int:
    """How many batches of ``batch_size`` all shards together make of one epoch; checked."""
    if drop_remainder:
        allowed = f"at most {n // shards}: {shards} shards share {n} items"
        require(n >= batch_size * shards, "batch_size", batch_size, allowed)
        return n // (batch_size * shards) * shards
    batches = math.ceil(n / batch_size)
    allowed = f"at most {_largest(n, shards)}: each of {shards} shards needs a batch of {n} items"
    require(batches >= shards, "batch_size", batch_size, allowed)
    unequal = repeat and batches % shards > 0
    require(not unequal, "drop_remainder", False, "True where unequal shards repeat: they would drift apart")
    return batches


def _largest(n: int, shards: int) -> int:
    """The largest b >= 1 with ceil(n / b) >= shards, for shards <= n."""
    return n if shards == 1 else (n - 1) // (shards - 1)


def _as_sequence(augment: Augmentation | Sequence[Augmentation] | None) -> Sequence[Augmentation]:
    if augment is None:
        return ()
    return augment if isinstance(augment, Sequence) else (augment,)


def _check(n: int, batch_size: int, seed: int, shard_index: int, shard_count: int) -> None:
    require(n > 0, "source", n, "at least one item")
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(0 <= seed < 2**32, "seed", seed, "an integer in [0, 2^32)")
    require(1 <= shard_count <= n, "shard_count", shard_count, f"1 .. {n}, the items of the source")
    require(0 <= shard_index < shard_count, "shard_index", shard_index, f"0 .. {shard_count - 1}")


def _start(dataset: Any, step: int, threads: int, workers: int) -> Any:
    """grain's iterator over a ``MapDataset`` from a position on."""
    grain = optional_import("grain.python")
    data = dataset.slice(slice(step, None)) if step else dataset
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    data = data.to_iter_dataset(reading)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads its own: notebooks and pytest parse none
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        data = data.mp_prefetch(processes, worker_init_fn=_prepare_worker)
    return iter(data)


def _stop(running: list[Any]) -> None:
    """Close grain's iterator where there is one, and forget it."""
    while running:
        running.pop().close()


def _prepare_worker(index: int, count: int) -> None:
    """In a worker: end with the parent however it ends, leave Ctrl-C and the accelerator to it."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
