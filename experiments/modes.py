"""What the launcher does: train, evaluate, draw samples, export."""

import contextlib
import logging
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from diffax import checks
from diffax.evaluation import write_result
from diffax.io import CheckpointStore, MetricsWriter
from diffax.training import TrainState, abstract, data_shard, distributed
from diffax.training import train as run_training
from diffax.training.sharding import Rules
from experiments.base import Experiment, Init
from experiments.devices import environment, open_mesh
from experiments.progress import Progress, say
from experiments.registry import make_experiment
from experiments.workdir import check_owner, claim, output_folder


class Options(NamedTuple):
    """What the launcher's own flags say."""

    profile: bool = False
    checkpoint: str = "newest"  # or "best", or a step: what eval and sample look at


def train(config: ConfigDict, workdir: str, options: Options | None = None) -> bool:
    """Train, or go on training, to ``config.train.num_steps``; False where SIGTERM came first."""
    options = options or Options()
    path, settings = Path(workdir), config.train
    check_owner(config, path)
    mesh = open_mesh(config.mesh, config.cpu_devices)
    experiment = make_experiment(config)
    data = experiment.data(*data_shard(mesh))
    claim(config, path)
    _log_to_stderr()
    progress = Progress(settings.num_steps)
    with output_folder(path) as folder, _open_store(config, path) as store, _closed_after(data):
        init = experiment.begin(path) if experiment.begin else experiment.init
        if init is None:
            return False
        writer = MetricsWriter(folder)
        state = run_training(
            partial(init, jax.random.key(config.seed)),
            experiment.train_step,
            data,
            num_steps=settings.num_steps,
            checkpoints=_Announced(store, writer, progress),
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
            hooks=(lambda step, values, _: writer.write(step, values), progress),
            watches=(writer.write_performance, progress.watch),
            validate=experiment.validate,
            mesh=mesh,
            rules=experiment.sharding_rules,
            profile=path / "profile" if options.profile else None,
        )
        writer.close()
    progress.finish(int(state.step))
    return int(state.step) >= settings.num_steps


def evaluate(config: ConfigDict, workdir: str, options: Options | None = None) -> None:
    """Measure a checkpoint, the newest one by default, and write ``result.json``."""
    path = Path(workdir)
    experiment, state = load(config, path, (options or Options()).checkpoint)
    with output_folder(path) as folder:
        write_figures(config, folder, state, experiment.evaluate(state, folder))


def draw(config: ConfigDict, workdir: str, options: Options | None = None) -> None:
    """Draw samples from a checkpoint, the newest one by default."""
    path = Path(workdir)
    experiment, state = load(config, path, (options or Options()).checkpoint)
    with output_folder(path) as folder:
        experiment.draw(state, folder)
    for picture in sorted(path.glob("samples-*.png")):
        say(f"wrote {picture}", sys.stdout)


def export(config: ConfigDict, workdir: str, options: Options | None = None) -> None:
    """Write a checkpoint's parameters and samplers for use without this program, into ``export/``."""
    path = Path(workdir)
    experiment, state = load(config, path, (options or Options()).checkpoint)
    known = "an experiment that exports something"
    checks.require(experiment.export is not None, "config.experiment", config.experiment, known)
    assert experiment.export is not None
    with output_folder(path) as folder:
        experiment.export(state, folder / "export")
    for file in sorted((path / "export").iterdir()):
        say(f"wrote {file}", sys.stdout)


def load(config: ConfigDict, path: Path, checkpoint: str = "newest") -> tuple[Experiment, TrainState]:
    """The experiment and the state of one of the folder's whole checkpoints: "newest", "best" or a step.

    Raises ``ValueError`` where there is none.
    """
    check_run(config, path)
    experiment = make_experiment(config)
    return experiment, load_state(config, path, experiment.init, experiment.sharding_rules, checkpoint)


def check_run(config: ConfigDict, path: Path) -> None:
    """Raise ``ValueError`` unless the folder holds checkpoints of this configuration; start its devices."""
    check_owner(config, path)
    checks.require((path / "checkpoints").is_dir(), "workdir", str(path), "the folder of a trained run")
    open_mesh(config.mesh, config.cpu_devices)
    _log_to_stderr()


def load_state(
    config: ConfigDict, path: Path, init: Init, rules: Rules = (), checkpoint: str = "newest"
) -> TrainState:
    """The state alone, for those who know how it is made and need neither the data nor the training."""
    mesh = open_mesh(config.mesh, config.cpu_devices)
    with _open_store(config, path) as store:
        step = _choose(store, checkpoint)
        found = store.restore(abstract(partial(init, jax.random.key(config.seed)), mesh, rules), step)
    checks.require(found is not None, "workdir", str(path), "a folder with a checkpoint (run --mode=train)")
    assert found is not None
    return found[0]


def write_figures(config: ConfigDict, path: Path, state: TrainState, found: Mapping[str, Any]) -> None:
    """``result.json`` from what an experiment measured."""
    notes = {"config": config.to_dict(), "step": int(state.step), **environment(), **found.get("notes", {})}
    notes["rows"] = found["rows"]
    write_result(path / "result.json", found["figures"], _plain(notes))
    say(f"wrote {path / 'result.json'}", sys.stdout)


def _closed_after(data: Any) -> contextlib.AbstractContextManager[Any]:
    """End the processes of a pipeline that has some."""
    return contextlib.closing(data) if hasattr(data, "close") else contextlib.nullcontext()


def _open_store(config: ConfigDict, path: Path) -> CheckpointStore:
    settings = config.train
    return CheckpointStore(path / "checkpoints", settings.keep, settings.keep_every, settings.best)


def _choose(store: CheckpointStore, checkpoint: str) -> int | None:
    """The step that a name stands for; None for the newest."""
    if checkpoint == "newest":
        return None
    step = store.best_step() if checkpoint == "best" else int(checkpoint) if checkpoint.isdigit() else None
    allowed = f"newest, best (where config.train.best names a metric), or one of {store.steps()}"
    checks.require(step in store.steps(), "checkpoint", checkpoint, allowed)
    return step


def _plain(value: Any) -> Any:
    """Values as JSON has them: numbers that are not finite, and other objects, as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


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
            say(f"resuming from the checkpoint at step {step}")
        return found

    def save(self, state: TrainState, data: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._store.save(state, data, metrics)

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
    if not distributed.is_main():
        logger.setLevel(logging.ERROR)
    # storage logs a traceback of each error in its threads; the same error reaches us, and is one line
    absl_logging.set_verbosity(absl_logging.FATAL)
