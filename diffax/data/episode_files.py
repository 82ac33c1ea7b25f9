"""Demonstrations of robots in files: whatever layout is at a path, read as episodes; and a layout of our own.

The others are those of LIBERO and robomimic (:mod:`diffax.data.robomimic`), of diffusion_policy's replay
buffers (``replay``), of LeRobot (``lerobot``, written by ``lerobot_writer``) and RLDS (``rlds``). ``h5py``,
``zarr`` and ``pyarrow`` (``pip install "diffax[robots]"``) and TensorFlow Datasets (``"diffax[tfds]"``) are
imported by the readers that need them.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.demonstrations import Demonstrations, Field, as_numbers, check_demonstrations, choose_fields
from diffax.data.episodes import Episodes
from diffax.data.lerobot import read_lerobot
from diffax.data.npz import read_arrays
from diffax.data.replay import read_replay
from diffax.data.rlds import read_rlds
from diffax.data.robomimic import HDF5_SUFFIXES, hdf5_files, read_robomimic
from diffax.io.files import write_atomically

Reader = Callable[[Path, Sequence[str], str], Demonstrations]
LAYOUTS = (
    "an .npz file of write_demonstrations; an .hdf5 file of robomimic or LIBERO, or a folder of them; a zarr "
    "replay buffer with meta/episode_ends, a folder or a .zip; a LeRobot v3 folder with meta/info.json; a "
    "version folder of TensorFlow Datasets with features.json (RLDS)"
)
_PREFIX = "steps/"  # of the arrays of a .npz file that hold fields


def read_demonstrations(path: str | Path, fields: Sequence[str] = (), action: str = "") -> Demonstrations:
    """Read the demonstrations at a path, whichever of ``LAYOUTS`` is there, wholly into memory.

    ``fields`` are the observations to read. By default they are those with a number or a vector of numbers
    each step; images, uint8 (h, w, c), are read where asked for. Names are the file's own, but LeRobot's
    "observation.state" is called "state". ``action`` names the field of actions, if not as the layout does.
    Floats come as float32. ``about`` tells the ``format``, the ``source`` and, where the file knows it,
    ``fps``, what was ``left_out`` and its ``splits``, as numbers of episodes for :func:`take`.

    Raises ValueError naming the file, the field and what is allowed: for a path with none of these layouts,
    files that are cut short or contradict themselves, fields that are not there, numbers that are not finite.
    """
    path = Path(path)
    return check_demonstrations(_find_reader(path)(path, fields, action), str(path))


def _find_reader(path: Path) -> Reader:
    suffix = path.suffix.lower()
    if path.is_file():
        readers: dict[str, Reader] = {".npz": _read_npz, ".zip": read_replay}
        readers |= dict.fromkeys(HDF5_SUFFIXES, read_robomimic)
        require(suffix in readers, "demonstrations", str(path), LAYOUTS)
        return readers[suffix]
    if (path / "meta" / "info.json").is_file():
        return read_lerobot
    if (path / "meta" / "episode_ends").is_dir():
        return read_replay
    if (path / "features.json").is_file():
        return read_rlds
    require(bool(hdf5_files(path)), "demonstrations", str(path), LAYOUTS)
    return read_robomimic


def _read_npz(path: Path, fields: Sequence[str], action: str) -> Demonstrations:
    """Of :func:`write_demonstrations`: all that was written, unless ``fields`` says what to read."""
    try:
        arrays = read_arrays(path)
    except zlib.error as error:
        raise ValueError(f"{path}: got {error!s}, allowed: a whole .npz file") from error
    action = _PREFIX + (action or "action")
    for name, allowed in (("ends", "iu"), ("task", "iu"), ("tasks", "U"), ("about", "U"), (action, "fiu")):
        require(name in arrays, f"{path}: arrays", sorted(arrays), f"{name!r} among them")
        require(arrays[name].dtype.kind in allowed, f"{path}: {name}: type", arrays[name].dtype.name, allowed)
    for name in ("ends", "task", "tasks"):
        require(arrays[name].ndim == 1, f"{path}: {name}: shape", arrays[name].shape, "one dimension")
    held = {k.removeprefix(_PREFIX): v for k, v in arrays.items() if k.startswith(_PREFIX) and k != action}
    kinds = {name: Field(values.shape[1:], values.dtype) for name, values in held.items()}
    chosen = choose_fields(str(path), kinds, fields) if fields else list(held)
    steps = {"action": as_numbers(f"{path}: {action}", arrays[action])}
    steps |= {name: as_numbers(f"{path}: {_PREFIX}{name}", held[name]) for name in chosen}
    episodes = Episodes(steps, arrays["ends"].astype(np.int64), arrays["task"].astype(np.int64))
    try:
        about = json.loads(str(arrays["about"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: about: got {error!s}, allowed: JSON") from error
    return Demonstrations(episodes, tuple(str(task) for task in arrays["tasks"]), about)


def write_demonstrations(path: str | Path, demonstrations: Demonstrations) -> None:
    """Write a ``.npz`` file with all fields, under a temporary name first, for :func:`read_demonstrations`.

    Raises ValueError for another suffix, for what JSON cannot hold in ``about``, and for episodes that no
    policy could learn from.
    """
    path = Path(path)
    require(path.suffix == ".npz", "path", str(path), "a name that ends in .npz (for LeRobot: write_lerobot)")
    (steps, ends, task), tasks, about = check_demonstrations(demonstrations, "demonstrations")
    try:
        described = json.dumps(dict(about))
    except TypeError as error:
        raise ValueError(f"demonstrations.about: got {error!s}, allowed: what JSON can hold") from error
    arrays: dict[str, Any] = {_PREFIX + name: values for name, values in steps.items()}
    arrays |= {"ends": ends, "task": task, "tasks": np.asarray(tasks, str), "about": np.asarray(described)}
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, **arrays))
