"""A run's folder: whose it is, what it holds, and who writes into it.

``config.json`` says what run the folder belongs to; ``checkpoints/``, ``metrics.jsonl``, ``metrics.csv``,
``performance.jsonl``, pictures and ``result.json`` are made by the modes.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffax import checks
from diffax.io import write_json
from diffax.training import distributed

# what may change between the calls that share a folder: how long, how often, where, and what is done after
_MAY_CHANGE = (
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_every",
    "train.best",
    "train.validate_n",
    "data.threads",
    "data.workers",
    "data.preload",
    "mesh",
    "cpu_devices",
    "sample",
    "eval",
    "solvers",
    "scans",
    "methods",
    "reconstruct",
    "task",
)


def read_config(path: Path) -> ConfigDict:
    """The configuration that a run's folder keeps; ValueError where there is none."""
    file = path / "config.json"
    checks.require(file.exists(), "workdir", str(path), "the folder of a trained run, with a config.json")
    return ConfigDict(read_json(file))


def check_owner(config: ConfigDict, path: Path) -> None:
    """Raise ``ValueError`` where the folder belongs to another run, naming the first field that differs."""
    if not (path / "config.json").exists():
        foreign = path / "checkpoints"
        allowed = "an empty folder, or one with a config.json"
        checks.require(not (foreign.exists() and any(foreign.iterdir())), "workdir", str(path), allowed)
        return
    theirs = read_json(path / "config.json")
    old, new = flatten(theirs), flatten(json.loads(json.dumps(config.to_dict())))
    for field in sorted({*old, *new}):
        if any(field == name or field.startswith(name + ".") for name in _MAY_CHANGE):
            continue
        if field not in old and not new[field]:
            continue  # an option that is newer than the folder, and not used
        if old.get(field) != new.get(field):
            raise ValueError(
                f"config.{field}: got {new.get(field)!r}, allowed: {old.get(field)!r}, as in {path}, "
                "which holds another run (choose another --workdir)"
            )


def claim(config: ConfigDict, path: Path) -> None:
    """Write ``config.json``: the folder is this run's from here on."""
    if distributed.is_main():
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", config.to_dict())
    distributed.barrier("the folder is claimed")


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The folder itself on the first process; on others a scratch one, for all compute and one writes."""
    if distributed.is_main():
        yield path
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        inner = f"{prefix}{name}"
        flat.update(flatten(value, inner + ".") if isinstance(value, Mapping) else {inner: value})
    return flat


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"workdir: got {file.parent} with an unreadable {file.name} ({error}), allowed: JSON"
        ) from None
