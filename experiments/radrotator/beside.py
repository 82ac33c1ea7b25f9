"""Other networks that an evaluation compares with: trained in folders of their own, when they are not yet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import modes
from experiments.progress import say
from experiments.radrotator.method import parameters


def trained_beside(
    config: ConfigDict, workdir: Path, make_turn: Callable[[ConfigDict, Any], Any]
) -> dict[str, Any]:
    """The networks of ``config.eval.beside`` by name, each from WORKDIR/name; those missing are trained.

    A folder's run is this one with the changes that are given, field by field.
    """
    found = {}
    for name, changes in config.eval.beside.items():
        own, folder = changed(config, changes, workdir), workdir / name
        say(f"beside: {name}, in {folder}: {own.train.num_steps} steps")
        if not modes.train(own, str(folder)):
            raise ValueError(f"config.eval.beside.{name}: training was stopped; the same command goes on")
        _, state = modes.load(own, folder)
        found[name] = make_turn(own, parameters(own, state))
    return found


def changed(config: ConfigDict, changes: ConfigDict, workdir: Path) -> ConfigDict:
    """The run that stands beside: the same data and devices, nothing beside it in turn."""
    own = config.copy_and_resolve_references()
    own.eval.beside = ConfigDict()
    own.update(changes)
    if own.objective == "student":
        own.teacher = str(workdir)
    return own
