"""What policies learn from and are tried on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from diffax import checks
from diffax.data.episodes import Episodes
from diffax.io import write_json
from experiments.mode_policy.method import Trained
from experiments.workdir import read_json

FILE = "suite.json"  # of a run's folder: a policy can be used where its demonstrations are not


class Facts(NamedTuple):
    """Tasks, and a sentence that says each; ``widths`` of a state and an action; ``images``: of each camera,
    (h, w, 3)."""

    tasks: tuple[str, ...]
    sentences: tuple[str, ...]
    widths: tuple[int, int]
    images: Mapping[str, tuple[int, ...]] = MappingProxyType({})


class Suite(NamedTuple):
    """Its facts; where demonstrations come from; figures and pictures of trained policies."""

    facts: Facts
    demonstrations: Callable[[], Episodes]
    evaluate: Callable[[Trained, Path], Mapping[str, Any]]
    draw: Callable[[Trained, Path], None]


def write_facts(folder: Path, facts: Facts) -> None:
    """Keep them in a run's folder."""
    write_json(folder / FILE, {**facts._asdict(), "images": dict(facts.images)})


def read_facts(folder: Path) -> Facts:
    """Those that a run's folder keeps; ValueError where there are none."""
    checks.require((folder / FILE).is_file(), "workdir", str(folder), f"a folder of a policy, with {FILE}")
    found = read_json(folder / FILE)
    images = {name: tuple(shape) for name, shape in found["images"].items()}
    state, action = found["widths"]
    return Facts(tuple(found["tasks"]), tuple(found["sentences"]), (state, action), images)
