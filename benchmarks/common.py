"""What the benchmarks share: the network's description, timing, and the peer in a process of its own."""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# one network in both libraries: DDPM's layout, attention at the levels marked
SIZES: dict[str, dict[str, Any]] = {
    "digits": {"size": 8, "image_channels": 1, "channels": (32, 64), "blocks": 1, "batch": 64},
    "cifar": {"size": 32, "image_channels": 3, "channels": (32, 64, 64), "blocks": 1, "batch": 16},
    "cifar-full": {
        "size": 32,
        "image_channels": 3,
        "channels": (128, 256, 256, 256),
        "blocks": 2,
        "batch": 128,
    },
}
_ATTENTION = {"digits": (), "cifar": (1,), "cifar-full": (1,)}
for _name, _spec in SIZES.items():
    _spec["attention"] = tuple(level in _ATTENTION[_name] for level in range(len(_spec["channels"])))


def arguments(description: str, extra: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The options of every benchmark, and a benchmark's own."""
    parser = argparse.ArgumentParser(description=description, parents=[extra] if extra else [])
    parser.add_argument("--size", choices=SIZES, default="digits")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer_python", default=sys.executable, help="a Python with torch and diffusers")
    parser.add_argument("--no_peer", action="store_true")
    return parser.parse_args()


def median_seconds(run: Callable[[], Any], repeats: int, warm_up: int = 2) -> float:
    """Median wall-clock seconds of a call that returns when its work is done."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peer(task: str, options: argparse.Namespace) -> Mapping[str, Any] | None:
    """The same task in the peer library, in a fresh process after ours; None where it cannot run."""
    if options.no_peer:
        return None
    script = str(Path(__file__).with_name("peer_diffusers.py"))
    command = [
        options.peer_python,
        script,
        task,
        json.dumps(SIZES[options.size]),
        str(options.repeats),
        options.dtype,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"peer not measured: {reason} (pip install torch diffusers)", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = [f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        print("| " + " | ".join(cells) + " |")


def cpu_ms(run: Callable[[], Any], repeats: int, most: float = 20.0) -> float:
    """Least process CPU time of a call, in milliseconds; none is begun after ``most`` seconds of them."""
    run()
    best, spent = math.inf, 0.0
    for _ in range(repeats):
        start = time.process_time()
        run()
        taken = time.process_time() - start
        best, spent = min(best, taken), spent + taken
        if spent > most:
            break
    return 1e3 * best


def ask_peer(script: str, case: Sequence[Any], options: argparse.Namespace) -> dict[str, float] | None:
    """A script's own ``--task`` in a process of the peers' Python.

    None, with a line that says why, where it cannot run, or takes more than ``options.limit`` seconds.
    """
    command = [options.peer_python, script, "--task", json.dumps(case)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=options.limit)
    except subprocess.TimeoutExpired:
        print(f"{case}: not measured: over {options.limit} s", file=sys.stderr)
        return None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{case}: not measured: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])
