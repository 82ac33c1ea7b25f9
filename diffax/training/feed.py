"""Batches on the devices before they are needed, and the position in the data that belongs to each."""

import queue
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from diffax import checks
from diffax.training.sharding import place_batch


@runtime_checkable
class DataIterator(Protocol):
    """Batches whose position can be saved."""

    def __next__(self) -> Mapping[str, np.ndarray]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


class Fed(NamedTuple):
    """One global batch, and the position from which the data goes on after it."""

    batch: dict[str, jax.Array]
    position: Any


class Feed:
    """Reads ``data`` in a thread, ``ahead`` batches ahead, and places each on the mesh.

    ``position`` is that after the last batch taken. ``waited`` counts the seconds that the reader of the feed
    stood still for want of a batch. An error of the data is raised where its batch would have come. On
    leaving, the data stands after the last batch taken.
    """

    def __init__(self, data: DataIterator, mesh: Mesh, ahead: int = 2) -> None:
        checks.require(ahead >= 1, "ahead", ahead, "an integer >= 1")
        self._data, self._mesh = data, mesh
        self._ready: queue.Queue[Fed | Exception] = queue.Queue(ahead)
        self._closing = threading.Event()
        self.position = data.get_state()
        self._thread = threading.Thread(target=self._read, name="diffax-feed", daemon=True)
        self.waited = 0.0

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        if kind is None:
            self._data.set_state(self.position)

    def take(self) -> Fed:
        """The next batch."""
        start = time.perf_counter()
        found = self._ready.get()
        self.waited += time.perf_counter() - start
        if isinstance(found, Exception):
            raise found
        self.position = found.position
        return found

    def _read(self) -> None:
        while not self._closing.is_set():
            found = self._next()
            while not self._closing.is_set():
                try:
                    self._ready.put(found, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(found, Exception):
                return

    def _next(self) -> Fed | Exception:
        try:
            batch = place_batch(next(self._data), self._mesh)
            return Fed(batch, self._data.get_state())
        except StopIteration:
            return ValueError("data: got an end, allowed: as many batches as steps (repeat=True)")
        except Exception as error:  # handed to the thread that trains
            return error
