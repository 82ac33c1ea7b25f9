"""Try a trained policy in Meta-World: success by task with intervals, what an answer costs, films.

    python -m experiments.mode_policy.rollout --workdir=runs/mt10 --tasks=mt10 --episodes=10 \
        --seed=7 --video=1

Goals are those of the seed, which must not be the demonstrations'. ``--policy`` is "model", one of the run's
baselines, or "expert" (the scripted ones, whose success bounds what can be learned). Figures go to
``WORKDIR/rollout/result.json``, films and a sheet of pictures beside it.
"""

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from diffax import checks
from diffax.evaluation import Figure, write_result
from diffax.io import save_gif, save_mp4, save_png
from experiments import main
from experiments.devices import environment
from experiments.figures import as_rows
from experiments.mode_policy import metaworld, metaworld_arm
from experiments.mode_policy.loading import load_trained
from experiments.mode_policy.metaworld_tasks import task_names
from experiments.mode_policy.method import answers
from experiments.mode_policy.simulators import Act, Outcome
from experiments.progress import say
from experiments.workdir import read_config

EXPERT = "expert"


def program(argv: Sequence[str]) -> None:
    """Roll out what the flags name."""
    names = ("workdir", "tasks", "episodes", "seed", "video", "policy", "execute")
    values = {name: flags.FLAGS[name].value for name in names}
    config = check(values)
    main.start_jax()
    seconds: list[float] = []
    act = None if values["policy"] == EXPERT else timed(load(values["workdir"], values["policy"]), seconds)
    known, chosen = task_names(config.tasks), task_names(values["tasks"] or config.tasks, "--tasks")
    options = {"film": values["video"], "label": values["policy"]}
    begun = time.monotonic()
    found = metaworld.roll_out(act, config, chosen, known, values["episodes"], values["seed"], **options)
    folder = Path(values["workdir"]) / "rollout"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, config, values, found, seconds, time.monotonic() - begun)


def check(values: dict[str, Any]) -> ConfigDict:
    """The run's configuration, if all that the flags ask for can be done."""
    checks.require(bool(values["workdir"]), "--workdir", values["workdir"], "the folder of a trained run")
    config = read_config(Path(values["workdir"]))
    fits = config.get("experiment") == "mode_policy" and config.suite == "metaworld"
    checks.require(fits, "--workdir", values["workdir"], "a run of mode_policy in Meta-World")
    for name, least in {"episodes": 1, "video": 0}.items():
        checks.require(values[name] >= least, f"--{name}", values[name], f"an integer >= {least}")
    config.sample.execute = values["execute"] or config.sample.execute
    fits = 1 <= config.sample.execute <= config.data.horizon
    checks.require(fits, "--execute", values["execute"], f"1 .. {config.data.horizon}, or 0 for the run's")
    for task in task_names(values["tasks"] or config.tasks, "--tasks"):
        checks.require_one_of("--tasks", task, task_names(config.tasks))
    checks.require_one_of("--policy", values["policy"], ("model", *config.baselines, EXPERT))
    metaworld.check_seeds(config, values["seed"])
    metaworld_arm.require_simulator()
    if values["video"]:
        metaworld_arm.require_screen()
    return config


def load(workdir: str, name: str) -> Act:
    """A policy's answers."""
    trained, _ = load_trained(workdir)
    return answers(trained, name)


def timed(act: Act, seconds: list[float]) -> Act:
    """The same, noting how long an answer for the whole batch took."""

    def run(*given: Any) -> Any:
        begun = time.perf_counter()
        found = np.asarray(act(*given))
        seconds.append((time.perf_counter() - begun) / len(found))
        return found

    return run


def write(
    folder: Path,
    config: ConfigDict,
    values: dict[str, Any],
    found: Sequence[Outcome],
    seconds: Sequence[float],
    total: float,
) -> None:
    """Films, their sheet, and ``result.json``."""
    figures, row = metaworld.measure(found, "", values["seed"])
    if seconds:
        row["ms_per_action"] = 1e3 * float(np.median(seconds)) / config.sample.execute
        figures.append(
            Figure("ms_per_action", row["ms_per_action"], n_fake=len(seconds), seed=values["seed"])
        )
    films = [o for o in found if o.frames]
    for outcome in films:
        say(f"wrote {film(folder, outcome)}", sys.stdout)
    if films:
        save_png(folder / "films.png", metaworld.film_sheet(films))
    notes = {
        "flags": values,
        "config": config.to_dict(),
        **environment(),
        "protocol": metaworld.protocol_of(config),
        "versions": metaworld_arm.versions(),
        "seconds": total,
        "episodes": [
            {"task": o.task, "index": o.index, "success": o.success, "steps": o.steps} for o in found
        ],
        "rows": as_rows({"": row}, values["policy"]),
    }
    write_result(folder / "result.json", figures, notes)
    say(f"wrote {folder / 'result.json'}", sys.stdout)


def film(folder: Path, outcome: Outcome, fps: int = 20) -> Path:
    """An MP4, or a GIF where no encoder is installed."""
    name = f"{outcome.task}-{outcome.index}{'' if outcome.success else '-failed'}"
    if importlib.util.find_spec("imageio_ffmpeg"):
        save_mp4(folder / f"{name}.mp4", outcome.frames, fps)
        return folder / f"{name}.mp4"
    save_gif(folder / f"{name}.gif", outcome.frames, fps)
    return folder / f"{name}.gif"


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "folder of a trained run")
    flags.DEFINE_string("tasks", "", "mt10, mt50, or names; the run's by default")
    flags.DEFINE_integer("episodes", 10, "of each task")
    flags.DEFINE_integer("seed", 7, "of goals and draws; another than the demonstrations'")
    flags.DEFINE_integer("video", 0, "episodes of each task that are filmed")
    flags.DEFINE_integer("execute", 0, "actions of an answer that are run; 0 for the run's")
    flags.DEFINE_string("policy", "model", "model, a baseline of the run, or expert")
    sys.exit(main.run(program))
