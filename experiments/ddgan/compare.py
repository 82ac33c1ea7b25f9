"""Runs on the 25 Gaussians side by side: samples of each, above those of the exact posterior mean.

    python -m experiments.ddgan.compare --workdirs=runs/t1,runs/t2,runs/t4,runs/t8 --out=steps.png

Needs ``--mode=eval`` of each run first. Prints the table, and draws a column for each run.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from diffax import checks
from experiments import main
from experiments.pictures import scatter
from experiments.progress import say
from experiments.workdir import read_config

_FIELDS = ("modes", "high_quality", "kl", "tv", "nfe", "seconds_per_100")


def read(workdir: Path) -> dict[str, Any]:
    """Figures and samples of an evaluated run; ValueError for one of another kind."""
    config, result = read_config(workdir), workdir / "result.json"
    kind = config.experiment == "ddgan" and config.data.source == "gaussians"
    checks.require(kind, "workdirs", str(workdir), "runs of ddgan on the Gaussians")
    checks.require(result.exists(), "workdirs", str(workdir), "runs after --mode=eval")
    figures = {f["name"]: f["value"] for f in json.loads(result.read_text(encoding="utf-8"))["figures"]}
    with np.load(workdir / "samples.npz") as arrays:
        checks.require("mean_oracle" in arrays, "workdirs", str(workdir), "runs after --mode=eval")
        clouds = [arrays["x"], arrays["mean_oracle"]]
    return {"config": config, "figures": figures, "clouds": clouds, "name": workdir.name}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each run, and one for the exact posterior mean in as many steps."""
    lines = ["| run | T | " + " | ".join(_FIELDS) + " |", "|---" * (len(_FIELDS) + 2) + "|"]
    for run in runs:
        for prefix, name in (("", run["name"]), ("mean_oracle/", "exact posterior mean")):
            values = [run["figures"].get(prefix + field) for field in _FIELDS]
            cells = ["" if value is None else f"{value:.4g}" for value in values]
            lines.append(f"| {name} | {run['config'].steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(runs: Sequence[dict[str, Any]], out: Path) -> None:
    """The clouds: runs above, exact posterior means below."""
    rows = [[run["clouds"][i] for run in runs] for i in range(2)]
    names = [f"{run['name']}, T = {run['config'].steps}" for run in runs]
    means = [f"posterior mean, T = {run['config'].steps}" for run in runs]
    out.parent.mkdir(parents=True, exist_ok=True)
    scatter(out, rows, [names, means])


def program(argv: Sequence[str]) -> None:
    """Compare what the flags name."""
    values = flags.FLAGS
    for name in ("workdirs", "out"):
        checks.require(bool(values[name].value), f"--{name}", values[name].value, "at least one path")
    runs = [read(Path(folder)) for folder in values["workdirs"].value]
    draw(runs, Path(values["out"].value))
    say(table(runs), sys.stdout)
    say(f"wrote {values['out'].value}", sys.stdout)


if __name__ == "__main__":
    flags.DEFINE_list("workdirs", [], "folders of evaluated runs, separated by commas")
    flags.DEFINE_string("out", "", "the PNG to write")
    sys.exit(main.run(program))
