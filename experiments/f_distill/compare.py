"""Runs side by side: their table, points over training, or quality against network calls.

    python -m experiments.f_distill.compare --workdirs=runs/rkl,runs/js,runs/kl --out=ring.png
    python -m experiments.f_distill.compare --workdirs=runs/d1,runs/d2 --ddgan=runs/gan --out=pareto.png

Needs ``--mode=eval`` of each run first. For runs on the ring the picture has a row for each and a column for
each checkpoint that is kept; for images it shows students, the first run's teacher with each solver, and
(``--ddgan``) few-step GANs on the same data, judged by the same features.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from diffax import checks
from diffax.evaluation import Result, read_result
from diffax.io import CheckpointStore, in_batches
from experiments import main, modes
from experiments.f_distill import pictures
from experiments.f_distill.experiment import rebuild
from experiments.f_distill.sampling import make_generate
from experiments.pictures import scatter
from experiments.progress import say
from experiments.workdir import read_config

FIELDS = (
    "modes", "high_quality", "tv", "frechet", "precision", "recall", "coverage", "nfe",
    "teacher_frechet", "teacher_nfe", "speedup",
)  # fmt: skip
_POINTS = 4000


class Run(NamedTuple):
    """An evaluated run."""

    folder: Path
    config: ConfigDict
    result: Result

    def figures(self, group: str = "") -> dict[str, float]:
        """Its figures of one group, by name."""
        prefix = f"{group}/" if group else ""
        names = [f.name for f in self.result.figures if f.name.startswith(prefix)]
        plain = {name.removeprefix(prefix): self.result.value(name) for name in names}
        return {name: value for name, value in plain.items() if "/" not in name}

    @property
    def extractor(self) -> Mapping[str, str] | None:
        """What its distances are measured with."""
        return next((f.extractor for f in self.result.figures if f.name == "frechet"), None)


def read(folder: str, experiment: str) -> Run:
    """An evaluated run; ValueError for one of another experiment."""
    path = Path(folder)
    config = read_config(path)
    checks.require(config.experiment == experiment, "workdirs", folder, f"runs of {experiment}")
    checks.require((path / "result.json").exists(), "workdirs", folder, "runs after --mode=eval")
    return Run(path, config, read_result(path / "result.json"))


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each run."""
    lines = ["| run | " + " | ".join(FIELDS) + " |", "|---" * (len(FIELDS) + 1) + "|"]
    for run in runs:
        found = run.figures()
        cells = [f"{found[name]:.4g}" if name in found else "" for name in FIELDS]
        lines.append(f"| {run.folder.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_training(runs: Sequence[Run], out: Path) -> None:
    """A row of clouds for each run: one for each checkpoint that it keeps."""
    steps, names = [_steps(run) for run in runs], [run.folder.name for run in runs]
    shared = [step for step in steps[0] if all(step in other for other in steps)]
    checks.require(bool(shared), "workdirs", names, "runs with checkpoints in common")
    rows = [[_cloud(run, step) for step in shared] for run in runs]
    scatter(out, rows, [[f"{run.config.divergence}, step {step}" for step in shared] for run in runs])


def draw_quality(runs: Sequence[Run], rivals: Sequence[Run], out: Path) -> None:
    """Fréchet distance against network calls."""
    first, allowed = runs[0], f"runs judged by the features of {runs[0].folder.name}"
    for run in (*runs, *rivals):
        same = run.extractor == first.extractor
        checks.require(same, "workdirs", run.folder.name, allowed)
    points = {name: first.figures(name) for name in first.config.solvers}
    points |= {run.folder.name: run.figures() for run in (*runs, *rivals)}
    pictures.draw_pareto(out, points, first.config.eval.teacher, "frechet")


def _steps(run: Run) -> list[int]:
    with CheckpointStore(run.folder / "checkpoints") as store:
        return store.steps()


def _cloud(run: Run, step: int) -> np.ndarray:
    """Points of one checkpoint: the particles, or what the student draws."""
    _, state = modes.load(run.config, run.folder, str(step))
    if "particles" in state.nets:
        return np.asarray(state.nets["particles"].params)
    target, method = rebuild(run.config)
    generate = make_generate(method, target.shape, target.labelled)
    params = state.nets["student"].averaged(run.config.sample.ema)
    return np.concatenate(list(in_batches(generate, params, jax.random.key(0), np.arange(_POINTS), _POINTS)))


def program(argv: Sequence[str]) -> None:
    """Compare what the flags name."""
    values: Any = flags.FLAGS
    for name in ("workdirs", "out"):
        checks.require(bool(values[name].value), f"--{name}", values[name].value, "at least one path")
    runs = [read(folder, "f_distill") for folder in values["workdirs"].value]
    rivals = [read(folder, "ddgan") for folder in values["ddgan"].value]
    out = Path(values["out"].value)
    out.parent.mkdir(parents=True, exist_ok=True)
    ring = {run.config.data.source == "ring" for run in runs}
    checks.require(len(ring) == 1, "workdirs", values["workdirs"].value, "all on the ring, or all on images")
    if ring.pop():
        checks.require(not rivals, "--ddgan", values["ddgan"].value, "none, for runs on the ring")
        draw_training(runs, out)
    else:
        draw_quality(runs, rivals, out)
    say(table([*runs, *rivals]), sys.stdout)
    say(f"wrote {out}", sys.stdout)


if __name__ == "__main__":
    flags.DEFINE_list("workdirs", [], "folders of evaluated runs, separated by commas")
    flags.DEFINE_list("ddgan", [], "folders of evaluated runs of ddgan on the same images")
    flags.DEFINE_string("out", "", "the PNG to write")
    sys.exit(main.run(program))
