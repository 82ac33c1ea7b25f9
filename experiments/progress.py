"""Progress of long work on the terminal."""

import sys
import time
from collections.abc import Mapping

from diffax.training import TrainState


class Progress:
    """A hook that shows steps, rate and remaining time: a bar on a terminal, a line a log otherwise."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._start = time.monotonic()
        self._last_step, self._last = 0, self._start

    def start_at(self, step: int) -> None:
        """Count from a checkpoint's step."""
        self._last_step, self._last = step, time.monotonic()

    def __call__(self, step: int, values: Mapping[str, float], _: TrainState) -> None:
        now = time.monotonic()
        # over the steps since the last line: the first one's compilation must not spoil the forecast
        rate = (step - self._last_step) / max(now - self._last, 1e-9)
        self._last_step, self._last = step, now
        left = (self._num_steps - step) / max(rate, 1e-9)
        done = round(24 * step / self._num_steps)
        bar = "#" * done + "." * (24 - done)
        progress = f"[{bar}] {step}/{self._num_steps}  {rate:.1f} steps/s  {_clock(left)} left"
        text = f"{progress}  loss {values['loss']:.4f}"
        end = "\r" if sys.stderr.isatty() and step < self._num_steps else "\n"
        print(text, end=end, file=sys.stderr, flush=True)

    def finish(self, resumed_from: int) -> None:
        """Say how long it took, and from where."""
        minutes = (time.monotonic() - self._start) / 60
        source = f"from step {resumed_from} " if resumed_from else ""
        print(f"trained {source}to step {self._num_steps} in {minutes:.2f} minutes", file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
