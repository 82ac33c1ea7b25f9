"""A run's folder: whose it is, what it holds, and the three modes that work in it.

``config.json`` says what run the folder belongs to; ``checkpoints/``, ``metrics.jsonl``, ``metrics.csv``,
pictures and ``result.json`` are made by the modes.
"""

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffax import checks
from diffax.evaluation import write_result
from diffax.io import CheckpointStore, MetricsWriter, write_json
from diffax.training import TrainState, make_mesh
from diffax.training import train as run_training
from experiments.base import Experiment
from experiments.progress import Progress
from experiments.registry import make_experiment

# what may change between the calls that share a folder: how long, how often, and what is done afterwards
_MAY_CHANGE = (
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "devices",
    "sample",
    "eval",
    "solvers",
)


def train(config: ConfigDict, workdir: str) -> None:
    """Train, or go on training, to ``config.train.num_steps``."""
    path = Path(workdir)
    check_owner(config, path)
    mesh = open_mesh(config.devices)
    experiment = make_experiment(config)
    claim(config, path)
    _log_to_stderr()
    writer = MetricsWriter(path)
    with CheckpointStore(path / "checkpoints", keep=config.train.keep) as store:
        latest = store.steps()[-1:]
        state = experiment.init(jax.random.key(config.seed))
        data = experiment.data()
        progress = Progress(config.train.num_steps)
        state = run_training(
            state,
            experiment.train_step,
            data,
            num_steps=config.train.num_steps,
            checkpoints=_Announced(store, writer, progress),
            log_every=config.train.log_every,
            checkpoint_every=config.train.checkpoint_every,
            hooks=(lambda step, values, _: writer.write(step, values), progress),
            mesh=mesh,
        )
    writer.close()
    progress.finish(resumed_from=latest[0] if latest else 0)


def evaluate(config: ConfigDict, workdir: str) -> None:
    """Measure the newest checkpoint and write ``result.json``."""
    path = Path(workdir)
    experiment, state = load(config, path)
    found = experiment.evaluate(state, path)
    write_figures(config, path, state, found)


def write_figures(config: ConfigDict, path: Path, state: TrainState, found: Mapping[str, Any]) -> None:
    """``result.json`` from what an experiment measured."""
    notes = {"config": config.to_dict(), "step": int(state.step), **environment(), "rows": found["rows"]}
    write_result(path / "result.json", found["figures"], _plain(notes))
    print(f"wrote {path / 'result.json'}")


def _plain(value: Any) -> Any:
    """Values as JSON has them: numbers that are not finite, and other objects, as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def draw(config: ConfigDict, workdir: str) -> None:
    """Draw samples from the newest checkpoint."""
    path = Path(workdir)
    experiment, state = load(config, path)
    experiment.draw(state, path)
    for picture in sorted(path.glob("samples-*.png")):
        print(f"wrote {picture}")


def load(config: ConfigDict, path: Path) -> tuple[Experiment, TrainState]:
    """The experiment and the state of the folder's newest whole checkpoint.

    Raises ``ValueError`` where there is none.
    """
    check_owner(config, path)
    checks.require((path / "checkpoints").is_dir(), "workdir", str(path), "the folder of a trained run")
    open_mesh(config.devices)
    _log_to_stderr()
    experiment = make_experiment(config)
    state = experiment.init(jax.random.key(config.seed))
    with CheckpointStore(path / "checkpoints", keep=config.train.keep) as store:
        found = store.restore(state)
    checks.require(found is not None, "workdir", str(path), "a folder with a checkpoint (run --mode=train)")
    assert found is not None
    return experiment, found[0]


def check_owner(config: ConfigDict, path: Path) -> None:
    """Raise ``ValueError`` where the folder belongs to another run, naming the first field that differs."""
    if not (path / "config.json").exists():
        foreign = path / "checkpoints"
        allowed = "an empty folder, or one with a config.json"
        checks.require(not (foreign.exists() and any(foreign.iterdir())), "workdir", str(path), allowed)
        return
    try:
        theirs = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"workdir: got {path} with an unreadable config.json ({error}), allowed: JSON"
        ) from None
    old, new = flatten(theirs), flatten(json.loads(json.dumps(config.to_dict())))
    for field in sorted({*old, *new}):
        if any(field == name or field.startswith(name + ".") for name in _MAY_CHANGE):
            continue
        if old.get(field) != new.get(field):
            raise ValueError(
                f"config.{field}: got {new.get(field)!r}, allowed: {old.get(field)!r}, as in {path}, "
                "which holds another run (choose another --workdir)"
            )


def claim(config: ConfigDict, path: Path) -> None:
    """Write ``config.json``: the folder is this run's from here on."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config.to_dict())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        inner = f"{prefix}{name}"
        flat.update(flatten(value, inner + ".") if isinstance(value, Mapping) else {inner: value})
    return flat


def environment() -> dict[str, Any]:
    """What a figure's reader must know of where it was measured."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}


def open_mesh(devices: int) -> Mesh | None:
    """A mesh of ``devices``; None for one. On a CPU, cores serve as devices: two train faster than one."""
    checks.require(devices >= 1, "config.devices", devices, "an integer >= 1")
    if devices == 1:
        return None
    with contextlib.suppress(RuntimeError):  # JAX has started already: its devices stand
        jax.config.update("jax_num_cpu_devices", min(devices, os.cpu_count() or 1))
    return make_mesh(devices)


def set_compilation_cache(folder: str) -> None:
    """Keep compiled programs in a folder; "" for none."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class _Announced:
    """Checkpoints that set metrics and progress back to the step that was restored."""

    def __init__(self, store: CheckpointStore, writer: MetricsWriter, progress: Progress) -> None:
        self._store, self._writer, self._progress = store, writer, progress

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None:
        found = self._store.restore(template)
        step = int(found[0].step) if found else 0
        self._writer.resume(step)
        self._progress.start_at(step)
        if found:
            print(f"resuming from the checkpoint at step {step}", file=sys.stderr)
        return found

    def save(self, state: TrainState, data: Any) -> None:
        self._store.save(state, data)

    def wait(self) -> None:
        self._store.wait()


def _log_to_stderr() -> None:
    """The library's warnings, one line each, and no other package's chatter."""
    logger = logging.getLogger("diffax")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
