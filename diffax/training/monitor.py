"""How fast a run is: step time, images a second, waiting for input, arithmetic, memory."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jaxtyping import Array

# peak dense bfloat16 FLOP/s of one device, from the makers' data sheets
PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


def peak_flops(kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device kind as JAX names it; None for one that is not listed."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in kind), None)


def flops_of(lowered: Any) -> float | None:
    """Floating point operations of one call over all devices, as XLA counts them before it optimises."""
    analysis = lowered.cost_analysis()
    first = analysis[0] if isinstance(analysis, (list, tuple)) and analysis else analysis
    flops = first.get("flops") if isinstance(first, Mapping) else None
    return float(flops) if flops and math.isfinite(flops) and flops > 0 else None


def memory_figures(device: Any) -> dict[str, float]:
    """Bytes in use and at the peak on a device, where it reports them (a CPU does not)."""
    stats = device.memory_stats() or {}
    names = {"bytes_in_use": "memory_bytes", "peak_bytes_in_use": "memory_peak_bytes"}
    return {ours: float(stats[theirs]) for theirs, ours in names.items() if theirs in stats}


class Monitor:
    """Figures over the steps since the last reading; the clock starts when this is made.

    ``flops``: of one step over all ``devices``. Utilisation is ``flops / (seconds * devices * peak)``, where
    the peak is known.
    """

    def __init__(
        self, samples_per_step: int, flops: float | None, devices: list[Any], waited: float = 0.0
    ) -> None:
        self._samples, self._flops, self._devices = samples_per_step, flops, devices
        self._local = next(d for d in devices if d.process_index == jax.process_index())
        self._last, self._waited = time.perf_counter(), waited

    def read(self, steps: int, waited: float) -> dict[str, float]:
        """Figures of the last ``steps`` steps; ``waited`` is the feed's counter."""
        now = time.perf_counter()
        seconds = max(now - self._last, 1e-9)
        figures = {
            "seconds_per_step": seconds / steps,
            "samples_per_second": self._samples * steps / seconds,
            "input_wait_share": (waited - self._waited) / seconds,
            **memory_figures(self._local),
        }
        self._last, self._waited = now, waited
        return figures | self._arithmetic(steps / seconds)

    def skip(self, waited: float) -> None:
        """Leave out the time since the last reading (a checkpoint, a validation)."""
        self._last, self._waited = time.perf_counter(), waited

    def _arithmetic(self, steps_per_second: float) -> dict[str, float]:
        if self._flops is None:
            return {}
        achieved = self._flops * steps_per_second
        peak = peak_flops(self._devices[0].device_kind)
        share = {} if peak is None else {"utilisation": achieved / (peak * len(self._devices))}
        return {"flops_per_second": achieved, **share}


class Tracer:
    """Writes a profiler's trace of a few early steps into a folder, to open in TensorBoard or Perfetto."""

    FIRST, LAST = 4, 8  # after the first steps' warm-up

    def __init__(self, folder: str | Path | None) -> None:
        self._folder, self._running = folder, False

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def at(self, step: int) -> None:
        """Before the step of this number, counted from 1."""
        if self._folder is None:
            return
        if step == self.FIRST:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self.LAST:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def batch_size(batch: Mapping[str, Array]) -> int:
    """Rows of a global batch."""
    return jax.tree.leaves(batch)[0].shape[0]
