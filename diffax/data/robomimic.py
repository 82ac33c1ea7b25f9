"""Demonstrations of robomimic and LIBERO: HDF5 with ``data/demo_N/actions`` and ``data/demo_N/obs/<key>``.

LIBERO keeps a file for each task and says which in a sentence (``problem_info`` of ``data``); RoboCasa has a
sentence for each demonstration (``ep_meta``); robomimic gives but the environment's name (``env_args``).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.demonstrations import Demonstrations, Field, Recording, as_rows, assemble, choose_fields
from diffax.data.optional import optional_import

HDF5_SUFFIXES = (".hdf5", ".h5")


def hdf5_files(folder: Path) -> list[Path]:
    """The HDF5 files in a folder, by name; none where there is no folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if file.suffix.lower() in HDF5_SUFFIXES and file.is_file())


def read_robomimic(path: Path, fields: Sequence[str] = (), action: str = "") -> Demonstrations:
    """A file, or every HDF5 file of a folder, as :func:`diffax.data.read_demonstrations` says.

    Demonstrations come in the order of their numbers, files in that of their names. ``action`` is "actions"
    by default. ``about`` holds ``env_args`` of a single file, and filter keys (``mask``) as ``splits``.
    """
    h5py = optional_import("h5py", "robots")
    files = [path] if path.is_file() else hdf5_files(path)
    recordings: list[Recording] = []
    about: dict[str, Any] = {"format": "robomimic", "source": str(path), "splits": {}}
    for file in files:
        try:
            with h5py.File(file, "r") as opened:
                found, described = _read_file(file, opened, fields, action)
        except (OSError, RuntimeError, KeyError) as error:  # what h5py makes of a broken file
            raise ValueError(f"{file}: got {error!s}, allowed: a whole HDF5 file") from error
        for split, numbers in described.pop("splits").items():
            about["splits"].setdefault(split, []).extend(len(recordings) + n for n in numbers)
        about |= described if path.is_file() else {"files": [f.name for f in files], "fps": described["fps"]}
        expected = set(recordings[0].steps) if recordings else set(found[0].steps)
        same = set(found[0].steps) == expected
        require(same, f"{file}: fields", sorted(found[0].steps), f"{sorted(expected)}, as in {files[0].name}")
        recordings += found
    return assemble(recordings, about)


def _read_file(
    path: Path, opened: Any, fields: Sequence[str], action: str
) -> tuple[list[Recording], dict[str, Any]]:
    """The demonstrations of a file by their number, and what it says about them."""
    require("data" in opened, f"{path}: groups", sorted(opened), "'data', which holds the demonstrations")
    data = opened["data"]
    names = sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda n: int(n[5:]))
    require(bool(names), f"{path}: data", sorted(data)[:9], "groups demo_0, demo_1, ...")
    args = _parse(path, data.attrs, "env_args")
    task = _sentence(path, data.attrs, args)
    chosen: list[str] = []
    recordings = []
    for name in names:
        where = f"{path}: data/{name}"
        held = _observations(where, data[name])
        chosen = chosen or choose_fields(f"{where}/obs", held, fields)
        missing = [field for field in chosen if field not in held]
        require(not missing, f"{where}/obs", sorted(held), f"{missing} too, as in {names[0]}")
        own = _parse(path, data[name].attrs, "ep_meta").get("lang") or task
        recordings.append(Recording(where, _read_demo(where, data[name], chosen, action or "actions"), own))
    numbers = {name: number for number, name in enumerate(names)}
    masks = opened.get("mask", {}).items()
    splits = {key: [numbers[n] for n in map(_text, kept[:]) if n in numbers] for key, kept in masks}
    fps = args.get("env_kwargs", {}).get("control_freq")
    return recordings, {"env_args": args, "fps": fps, "splits": splits}


def _observations(where: str, demo: Any) -> dict[str, Field]:
    allowed = "'obs' among them (raw files hold states only: see robomimic's dataset_states_to_obs)"
    require("obs" in demo, f"{where}: groups", sorted(demo), allowed)
    arrays = {name: value for name, value in demo["obs"].items() if hasattr(value, "shape")}
    return {name: Field(value.shape[1:], value.dtype) for name, value in arrays.items()}


def _read_demo(where: str, demo: Any, chosen: Sequence[str], action: str) -> dict[str, np.ndarray]:
    require(action in demo, f"{where}: fields", sorted(demo), f"{action!r} among them")
    actions = as_rows(f"{where}/{action}", demo[action][()])
    told = int(demo.attrs.get("num_samples", len(actions)))
    require(len(actions) == told, f"{where}/{action}: rows", len(actions), f"{told}, its num_samples")
    seen = {name: as_rows(f"{where}/obs/{name}", demo["obs"][name][()]) for name in chosen}
    return {"action": actions} | seen


def _sentence(path: Path, attributes: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """What the task of a file is called: in words, by its environment, or as the file."""
    words = _parse(path, attributes, "problem_info").get("language_instruction")
    if words:
        return "".join(words).strip().strip('"')  # some files hold a list of letters, some add quotes
    return str(args.get("env_name") or path.stem)


def _parse(path: Path, attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An attribute that holds a JSON object; an empty one if it is not there."""
    text = _text(attributes.get(name, "{}"))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {name}: got {text[:40]!r}, allowed: JSON") from error
    return value if isinstance(value, dict) else {}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
