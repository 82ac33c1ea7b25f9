"""A trained network on patients of another source: before you trust it with yours.

    python -m experiments.radrotator.compare --workdir=RUN --source=FOLDER --out=FOLDER
    python -m experiments.radrotator.compare --workdir=RUN --source=chest --out=FOLDER

``--source`` is a folder of CT volumes (all of which are looked at, as they are), one volume, ``pelvis`` or
``chest``. The folder gets what the launcher's ``eval`` writes: ``result.json``, ``views.png``, ``angles.png``
and radiographs. The baselines know the run's own training patients.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from diffax import checks
from diffax.io import new_folder
from experiments import main, modes
from experiments.progress import say
from experiments.radrotator import evaluation, patients
from experiments.workdir import read_config


def program(argv: Sequence[str]) -> None:
    """Load, look, write."""
    values = {name: flag.value for name, flag in flags.FLAGS.__flags.items()}
    for name in ("workdir", "source", "out"):
        checks.require(bool(values[name]), f"--{name}", values[name], "a path")
    checks.require(values["n"] >= 1, "--n", values["n"], "at least 1")
    out = Path(values["out"])
    free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    checks.require(free, "--out", str(out), "a new or empty folder")
    main.start_jax()
    config = read_config(Path(values["workdir"]))
    kind = config.get("experiment")
    checks.require(kind == "radrotator", "--workdir", values["workdir"], "the folder of a radrotator run")
    others = of_source(config, values["source"])
    patients.held_out_rows(others, 1)  # what cannot be read is found before anything is computed
    _, state = modes.load(config, Path(values["workdir"]), values["checkpoint"])
    config.eval.beside, config.eval.n = ConfigDict(), values["n"]
    config.eval.retrieval_n = min(config.eval.retrieval_n, values["n"])
    others.eval = config.eval
    with new_folder(out) as folder:
        modes.write_figures(config, folder, state, evaluation.evaluate(config, state, folder, others))
    say(f"moved to {out}", sys.stdout)


def of_source(config: ConfigDict, source: str) -> ConfigDict:
    """The run's configuration with the patients of another source, volumes as they are."""
    others = config.copy_and_resolve_references()
    others.data.update({"source": source, "holdout": 0.0, "warp": 0.0})
    return others


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "folder of a trained run")
    flags.DEFINE_string("source", "", "a folder of CT volumes, one volume, pelvis or chest")
    flags.DEFINE_string("out", "", "a new or empty folder")
    flags.DEFINE_integer("n", 32, "views; volumes take turns")
    flags.DEFINE_string("checkpoint", "newest", "newest, best, or a step")
    sys.exit(main.run(program))
