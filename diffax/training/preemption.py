"""Notice that the machine is about to be taken away: finish the step, save, and leave in good order."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax


class Preemption:
    """A context in which SIGTERM (and Ctrl-C's SIGINT, the first time) asks for a stop instead of ending all.

    ``preemption(step)`` says after each step whether to stop. On several hosts the notice that one of them
    gets reaches all, and they stop at the same step (JAX's preemption service listens to SIGTERM there).
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        on_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and on_main_thread:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __call__(self, step: int) -> bool:
        """Whether all hosts are to stop after this step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._asked.is_set()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        for other, handler in self._before.items():  # a second signal has its usual effect
            signal.signal(other, handler)
