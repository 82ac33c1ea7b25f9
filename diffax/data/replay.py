"""Replay buffers of diffusion_policy: zarr stores with ``data/<field>`` and ``meta/episode_ends``.

They hold flat arrays and say nothing of tasks. A store is a folder or a .zip file, version 2 or 3 of zarr.
"""

import contextlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.demonstrations import Demonstrations, Field, as_rows, choose_fields
from diffax.data.episodes import Episodes
from diffax.data.optional import optional_import

_ENDS = "meta/episode_ends"
_ARRAY = re.compile(r"(?P<root>.*/)?(?P<name>data/[^/]+|meta/episode_ends)/(\.zarray|zarr\.json)")


def read_replay(path: Path, fields: Sequence[str] = (), action: str = "") -> Demonstrations:
    """A replay buffer as :func:`diffax.data.read_demonstrations` says; ``action`` is "action" by default.

    The one task is called as the store. Fields whose compression zarr does not know (diffusion_policy has its
    own for images) are ``left_out``. A chunk that is missing cannot be told from one of zeros: zarr's rule.
    """
    zarr = optional_import("zarr", "robots")
    root, names = _find_arrays(path)
    action = f"data/{action or 'action'}"
    require(action in names, f"{path}: arrays", sorted(names), f"{action!r} among them")
    with _open_store(zarr, path) as store:
        arrays = {name: _open_array(zarr, store, root + name) for name in names}
        broken = sorted(name for name, array in arrays.items() if isinstance(array, Exception))
        for name in (action, _ENDS):
            require(name not in broken, f"{path}: {name}", str(arrays[name]), "an array that zarr can read")
        held = {
            name.removeprefix("data/"): Field(array.shape[1:], array.dtype)
            for name, array in arrays.items()
            if name not in (action, _ENDS, *broken)
        }
        ends = _read(path, _ENDS, arrays[_ENDS])
        chosen = {"action": action} | {n: f"data/{n}" for n in choose_fields(f"{path}: data", held, fields)}
        read = {name: _read(path, key, arrays[key]) for name, key in chosen.items()}
    _check_ends(path, ends)
    for name, key in chosen.items():
        read[name] = as_rows(f"{path}: {key}", read[name])
        got, last = len(read[name]), int(ends[-1])
        require(got == last, f"{path}: {key}: rows", got, f"{last}, the last of {_ENDS}")
    episodes = Episodes(read, ends.astype(np.int64), np.zeros(len(ends), np.int64))
    about = {"format": "zarr", "source": str(path), "left_out": [n.removeprefix("data/") for n in broken]}
    return Demonstrations(episodes, (path.name.split(".")[0],), about)


def _find_arrays(path: Path) -> tuple[str, list[str]]:
    """Where in the store the buffer lies (archives may wrap it in a folder), and its arrays by name.

    Looked up by file name: zarr's own listing stops at the first array that it cannot open.
    """
    if path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                files = archive.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: got {error!s}, allowed: a whole .zip file") from error
    else:
        files = [file.relative_to(path).as_posix() for file in path.glob("*/*/*") if file.is_file()]
    found = [match for match in map(_ARRAY.fullmatch, sorted(files)) if match]
    roots = [match["root"] or "" for match in found if match["name"] == _ENDS]
    require(len(roots) == 1, f"{path}: arrays {_ENDS}", len(roots), "one, of a replay buffer")
    return roots[0], [match["name"] for match in found if (match["root"] or "") == roots[0]]


@contextlib.contextmanager
def _open_store(zarr: Any, path: Path) -> Iterator[Any]:
    if path.is_dir():
        yield str(path)
        return
    store = zarr.storage.ZipStore(str(path), mode="r")
    try:
        yield store
    finally:
        store.close()


def _open_array(zarr: Any, store: Any, name: str) -> Any:
    """An array, or the error: one that cannot be opened need not be read."""
    try:
        return zarr.open_array(store, path=name, mode="r")
    except Exception as error:  # each codec and each version of zarr has its own
        return error


def _read(path: Path, name: str, array: Any) -> np.ndarray:
    try:
        return np.asarray(array[:])
    except Exception as error:  # as above
        raise ValueError(f"{path}: {name}: got {error!s}, allowed: chunks that zarr can read") from error


def _check_ends(path: Path, ends: np.ndarray) -> None:
    where = f"{path}: {_ENDS}"
    valid = ends.ndim == 1 and ends.dtype.kind in "iu" and len(ends) > 0
    require(valid, where, f"{ends.dtype.name} {ends.shape}", "one integer or more in one dimension")
    lengths = np.diff(ends.astype(np.int64), prepend=0)
    short = int(np.argmin(lengths))
    require(bool(lengths[short] >= 1), f"{where}[{short}]", int(ends[short]), "increasing numbers above 0")
