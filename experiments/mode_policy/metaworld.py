"""The suite of Meta-World: demonstrations by scripted experts, rollouts on goals that none of them had."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffax import checks
from diffax.data.episode_files import Demonstrations, read_demonstrations, write_demonstrations
from diffax.data.episodes import Episodes, join
from diffax.evaluation import Figure, wilson_interval
from diffax.io import save_png
from diffax.training.state import count_params
from experiments.figures import as_rows
from experiments.mode_policy import metaworld_arm as arm
from experiments.mode_policy.metaworld_tasks import SENTENCES, task_names
from experiments.mode_policy.method import Trained, answers
from experiments.mode_policy.simulators import Outcome, Protocols, run_episodes
from experiments.mode_policy.suite import Facts, Suite
from experiments.progress import Counted, say


def open_metaworld(config: ConfigDict) -> Suite:
    """The suite of ``config.tasks``; the simulator is needed by those who make demonstrations or rollouts."""
    tasks = task_names(config.tasks, "config.tasks")
    facts = Facts(tasks, tuple(SENTENCES[task] for task in tasks), (arm.STATE, arm.ACTION))
    return Suite(facts, partial(demonstrations, config), partial(evaluate, tasks), partial(draw, tasks))


# -- demonstrations -----------------------------------------------------------------------------------------


def demonstrations(config: ConfigDict) -> Episodes:
    """Those of ``config.data.file``, which is made where it is absent; ValueError where it holds others."""
    tasks, file = task_names(config.tasks, "config.tasks"), Path(config.data.file)
    checks.require(file.suffix == ".npz", "config.data.file", str(file), "a path that ends with .npz")
    asked = {k: config.data[k] for k in ("per_task", "noise", "seed")} | {"suite": "metaworld"}
    if not file.exists():
        make_demonstrations(file, tasks, asked)
    found = read_demonstrations(file)
    names = {"tasks": tasks, **asked}
    for name, value in {"tasks": found.tasks, **found.about}.items():
        if name in names:
            allowed = f"{value!r}, which {file} holds (or another config.data.file)"
            checks.require(value == names[name], f"demonstrations' {name}", names[name], allowed)
    return found.episodes


def make_demonstrations(
    file: Path, tasks: Sequence[str], asked: Mapping[str, Any], processes: int = 0
) -> None:
    """Experts' episodes of all tasks, made in processes; what a broken call had done is not done again."""
    arm.require_simulator()
    parts, count = Path(f"{file}.parts"), int(asked["per_task"])
    say(f"{count} demonstrations of {len(tasks)} tasks of Meta-World go to {file}")
    progress, done = Counted("demonstrations"), 0
    wanted = {task: parts / f"{task}-{count}-{asked['noise']}-{asked['seed']}.npz" for task in tasks}
    with ProcessPoolExecutor(processes or None, get_context("spawn")) as pool:
        options = (count, asked["noise"], asked["seed"])
        jobs = [pool.submit(_make_part, wanted[t], t, *options) for t in tasks if not wanted[t].exists()]
        done = len(tasks) - len(jobs)
        for job in as_completed(jobs):
            job.result()
            done += 1
            progress(done, len(tasks))
    episodes = [read_demonstrations(wanted[task]).episodes for task in tasks]
    episodes = [e._replace(task=np.full_like(e.task, number)) for number, e in enumerate(episodes)]
    about = {**asked, **arm.versions()}
    write_demonstrations(file, Demonstrations(join(episodes), tuple(tasks), about))
    shutil.rmtree(parts)


def _make_part(file: Path, task: str, count: int, noise: float, seed: int) -> None:
    episodes = arm.demonstrate(task, count, noise, seed)
    write_demonstrations(file, Demonstrations(episodes, (task,), {}))


# -- rollouts -----------------------------------------------------------------------------------------------


def roll_out(
    policy: Callable[[Any, Any, Any], Any] | None,
    config: ConfigDict,
    chosen: Sequence[str],
    known: Sequence[str],
    episodes: int,
    seed: int,
    film: int = 0,
    label: str = "",
    told: int = 0,
) -> list[Outcome]:
    """Episodes of the chosen tasks, which are some of those that the policy knows; by experts without one.

    ``told``: how many tasks further on the one lies that the policy is told to do.
    """
    for task in chosen:
        checks.require_one_of("tasks", task, known)
    numbers = [(list(known).index(task) + told) % len(known) for task in chosen]
    protocol = Protocols(config.eval.steps, config.sample.execute, config.data.history, film)
    progress = Counted(label or "episodes")
    act = policy and (lambda seeds, states, task: policy(seeds, {"state": states}, task))
    return run_episodes(act, arm.Arm, chosen, episodes, seed, protocol, numbers, progress=progress)


def evaluate(tasks: Sequence[str], trained: Trained, workdir: Path) -> Mapping[str, Any]:
    """Every policy's success in each task, on goals that no demonstration had."""
    config = trained.config
    check_seeds(config, config.eval.seed)
    figures, table = list[Figure](), dict[str, dict[str, float]]()
    tried = [(name, name, 0) for name in trained.recipes]
    if trained.recipes["model"].goals is not None and len(tasks) > 1:
        tried.append(("model", "told_another_task", 1))  # what knows its goal fails here
    for name, label, told in tried:
        options = {"label": label, "told": told}
        asked = (tasks, tasks, config.eval.episodes, config.eval.seed)
        found = roll_out(answers(trained, name), config, *asked, **options)
        group = "" if label == "model" else label
        new, row = measure(found, group, config.eval.seed)
        figures += new
        table[group] = row | {"parameters": float(count_params(trained.nets[name]))}
    notes = {"protocol": protocol_of(config), "versions": arm.versions()}
    return {"figures": figures, "rows": as_rows(table, "model"), "notes": notes}


def draw(tasks: Sequence[str], trained: Trained, workdir: Path) -> None:
    """A film of each task as rows of pictures."""
    arm.require_screen()
    config = trained.config
    found = roll_out(answers(trained, "model"), config, tasks, tasks, 1, config.eval.seed, film=1)
    save_png(workdir / "samples-films.png", film_sheet(found))


def check_seeds(config: ConfigDict, seed: int) -> None:
    """Raise ``ValueError`` where rollouts would repeat the demonstrations' goals."""
    checks.require(seed != config.data.seed, "seed", seed, "another than the demonstrations'")


def measure(found: Sequence[Outcome], group: str, seed: int) -> tuple[list[Figure], dict[str, float]]:
    """Success over all and by task with 95 % intervals, and steps of episodes that succeeded."""
    prefix = f"{group}/" if group else ""
    about = {"split": f"seed {seed}", "seed": seed}
    names = list(dict.fromkeys(o.task for o in found))
    figures, by_task = list[Figure](), dict[str, float]()
    for name, some in {"": list(found), **{n: [o for o in found if o.task == n] for n in names}}.items():
        sure = wilson_interval(sum(o.success for o in some), len(some))
        label = f"{prefix}success/{name}" if name else f"{prefix}success"
        figures.append(Figure(label, sure.mean, n_fake=len(some), low=sure.low, high=sure.high, **about))
        if name:
            by_task[name] = sure.mean
    lengths = [o.steps for o in found if o.success]
    row = {
        "success": figures[0].value,
        "tasks_at_90": float(sum(v >= 0.9 for v in by_task.values())),
        "weakest": min(by_task.values()),
    }
    row |= {"steps": float(np.mean(lengths))} if lengths else {}
    figures += [Figure(prefix + k, v, n_fake=len(found), **about) for k, v in row.items() if k != "success"]
    return figures, row | by_task


def protocol_of(config: ConfigDict) -> dict[str, Any]:
    """What a rollout's figure depends on, beside the policy."""
    return {
        "benchmark": "Meta-World v3, states, goal seen",
        "success": "the first step that the simulator calls a success",
        "goals": "drawn by each episode's seed, from the benchmark's ranges",
        "steps": config.eval.steps,
        "execute": config.sample.execute,
        "denoising_steps": config.sample.steps,
        "history": config.data.history,
        "demonstrations_seed": config.data.seed,
    }


def film_sheet(found: Sequence[Outcome], columns: int = 8) -> np.ndarray:
    """A row of pictures for each filmed episode, evenly over its time, in [-1, 1]."""
    rows = []
    for outcome in (o for o in found if o.frames):
        chosen = np.linspace(0, len(outcome.frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate([outcome.frames[i] for i in chosen], axis=1))
    return np.concatenate(rows).astype(np.float32) / 127.5 - 1
