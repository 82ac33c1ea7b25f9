"""The launcher's ``train`` and ``eval`` in one: what the experiments' demonstrations are."""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from experiments import main, modes


def run(config: str) -> int:
    """A program with ``--workdir`` and ``--config``, whose default is given; its exit status."""
    config_flags.DEFINE_config_file("config", config, "configuration")
    flags.DEFINE_string("workdir", "", "folder of the run")
    return main.run(program)


def program(argv: Sequence[str]) -> None:
    """Train, unless that is done, and evaluate."""
    values = flags.FLAGS
    workdir = values["workdir"].value
    if not workdir:
        raise ValueError("--workdir: got '', allowed: a path")
    main.start_jax()
    if modes.train(values["config"].value, workdir):
        modes.evaluate(values["config"].value, workdir)
