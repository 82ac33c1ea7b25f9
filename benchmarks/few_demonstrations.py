"""Success of the mixture and of dense policies against the number of demonstrations of a task.

    python benchmarks/few_demonstrations.py --folder=runs/few    # needs diffax[metaworld]; an hour on 2 cores

Ten tasks of Meta-World. For every number of demonstrations and every seed the networks learn from the same
batches: the mixture, a dense one with as many active weights and one with as many weights at all. A seed
draws its own demonstrations and weights; all are tried on the same held-out episodes. What was done is not
done again: each cell leaves FOLDER/<seed>-<count>/success.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import print_table

from diffax.evaluation import wilson_interval
from diffax.io import write_atomically
from experiments.mode_policy.loading import load_trained
from experiments.mode_policy.metaworld import roll_out
from experiments.mode_policy.metaworld_tasks import task_names
from experiments.mode_policy.method import answers

CONFIG = "configs/mode_policy/metaworld_mt10.py:demo"
POLICIES = ("model", "dense", "wide")
FIRST = 42  # seed of the first seed's demonstrations


def train(folder: Path, count: int, seed: int, options: argparse.Namespace) -> None:
    """One run of the launcher: the three policies on the same batches."""
    values = {
        "seed": seed,
        "baselines": POLICIES[1:],
        "cpu_devices": options.devices,
        "data.file": str(options.folder / f"demonstrations-{seed}-{count}.npz"),
        "data.per_task": count,
        "data.seed": FIRST + seed,
        "train.num_steps": options.steps,
        "train.checkpoint_every": options.steps // 2,
    }
    changes = [f"--config.{name}={value}" for name, value in values.items()]
    program = [sys.executable, "-m", "experiments.main", "--mode=train", f"--workdir={folder}"]
    subprocess.run([*program, f"--config={CONFIG}", *changes], check=True)


def successes(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """How many episodes of each task each policy finished."""
    trained, _ = load_trained(folder)
    tasks = task_names(trained.config.tasks)
    found = {}
    for name in POLICIES:
        act, label = answers(trained, name), f"{folder.name} {name}"
        rolled = roll_out(act, trained.config, tasks, tasks, options.episodes, options.test_seed, label=label)
        found[name] = {task: sum(o.success for o in rolled if o.task == task) for task in tasks}
    return found


def cell(count: int, seed: int, options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Of one number of demonstrations and one seed, done or read."""
    folder = options.folder / f"{seed}-{count}"
    file = folder / "success.json"
    if not file.exists():
        train(folder, count, seed, options)
        found = successes(folder, options)
        write_atomically(file, lambda temporary: temporary.write_text(json.dumps(found, indent=1)))
    return json.loads(file.read_text())


def row(count: int, cells: list[dict[str, dict[str, int]]], episodes: int) -> dict[str, object]:
    """Means and ranges over seeds, and intervals over all episodes."""
    shown: dict[str, object] = {"demonstrations": count}
    for name in POLICIES:
        tries = episodes * len(cells[0][name])
        shares = [sum(c[name].values()) / tries for c in cells]
        sure = wilson_interval(round(sum(shares) * tries), tries * len(cells))
        seeds = " ".join(f"{share:.2f}" for share in shares)
        shown[name] = f"{statistics.mean(shares):.3f} ({seeds}) [{sure.low:.2f}, {sure.high:.2f}]"
    return shown


def main() -> None:
    """Every cell, seed by seed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of runs and demonstrations")
    parser.add_argument("--counts", default="5,10,25,50", help="demonstrations of a task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--episodes", type=int, default=10, help="of each task")
    parser.add_argument("--test_seed", type=int, default=7)
    parser.add_argument("--devices", type=int, default=os.cpu_count() or 1, help="virtual, of the CPU")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    counts = [int(count) for count in options.counts.split(",")]
    cells = {(count, seed): cell(count, seed, options) for seed in range(options.seeds) for count in counts}
    print_table([row(c, [cells[c, s] for s in range(options.seeds)], options.episodes) for c in counts])


if __name__ == "__main__":
    main()
