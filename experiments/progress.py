"""Progress of long work on the terminal of the first process."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from diffax.training import TrainState, distributed


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a line (to standard error unless told otherwise), on the first process only."""
    if distributed.is_main():
        print(text, end=end, file=stream or sys.stderr, flush=True)


def bar(done: int, total: int) -> str:
    """``[######..................] done/total``."""
    filled = round(24 * done / max(total, 1))
    return f"[{'#' * filled}{'.' * (24 - filled)}] {done}/{total}"


class Progress:
    """Hooks that show steps, rate and remaining time: a bar on a terminal, a line a log otherwise."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._start, self._resumed, self._loss = time.monotonic(), 0, 0.0

    def start_at(self, step: int) -> None:
        """Count from a checkpoint's step."""
        self._resumed = step

    def __call__(self, step: int, values: Mapping[str, float], _: TrainState) -> None:
        self._loss = values["loss"]

    def watch(self, step: int, figures: Mapping[str, float]) -> None:
        """Show the line, after the metrics of the same step came."""
        rate = 1.0 / figures["seconds_per_step"]
        left = _clock((self._num_steps - step) / rate)
        text = f"{bar(step, self._num_steps)}  {rate:.1f} steps/s  {left} left  loss {self._loss:.4f}"
        if "utilisation" in figures:
            text += f"  {figures['utilisation']:.0%} of peak"
        if figures["input_wait_share"] > 0.05:
            text += f"  waiting for data {figures['input_wait_share']:.0%}"
        say(text, end="\r" if sys.stderr.isatty() and step < self._num_steps else "\n")

    def finish(self, step: int) -> None:
        """Say how long it took, from where, and whether it was stopped."""
        minutes = (time.monotonic() - self._start) / 60
        source = f"from step {self._resumed} " if self._resumed else ""
        say(f"trained {source}to step {step} in {minutes:.2f} minutes")
        if step < self._num_steps:
            say(f"stopped at step {step} of {self._num_steps}, saved; the same command goes on from there")


class Counted:
    """A bar for work of many parts: ``counted(done, total)``, at most one line every two seconds.

    The time that remains is told by the parts since the first call, which compilation and what an earlier
    run did do not count for.
    """

    def __init__(self, name: str) -> None:
        self._name, self._last = name, 0.0
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        begun, before = self._first = self._first or (now, done)
        if done >= total or now - self._last > 2:
            self._last = now
            left = (
                f"  {_clock((now - begun) * (total - done) / (done - before))} left" if done > before else ""
            )
            line = f"{self._name} {bar(done, total)}{left if done < total else ''}"
            say(line, end="\r" if sys.stderr.isatty() and done < total else "\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
