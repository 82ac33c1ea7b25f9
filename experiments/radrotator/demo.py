"""From nothing to a table: train the prior of a configuration, then reconstruct its held-out volumes.

    python -m experiments.radrotator.demo --workdir=runs/mbir

The same as the launcher's ``train`` and ``eval``, in one; ``--config`` chooses another configuration.
"""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from experiments import main, modes


def program(argv: Sequence[str]) -> None:
    """Train, unless that is done, and evaluate."""
    values = flags.FLAGS
    workdir = values["workdir"].value
    if not workdir:
        raise ValueError("--workdir: got '', allowed: a path")
    main.start_jax()
    if modes.train(values["config"].value, workdir):
        modes.evaluate(values["config"].value, workdir)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", "configs/radrotator/pelvis.py:demo", "configuration")
    flags.DEFINE_string("workdir", "", "folder of the run")
    sys.exit(main.run(program))
