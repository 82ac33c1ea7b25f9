"""Demonstrations in LeRobot's layout, version 3: ``meta/info.json`` and Parquet files of many episodes each.

``data/chunk-*/file-*.parquet`` hold a row each step, ``meta/episodes/...`` the length of each episode,
``meta/tasks.parquet`` the sentences. Images lie in videos (or as encoded pictures), which are not read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.demonstrations import Demonstrations, Field, as_rows, choose_fields
from diffax.data.episodes import Episodes
from diffax.data.optional import optional_import

STATE = "observation.state"  # the column that is called "state" here
INDICES = ("episode_index", "frame_index", "task_index")
_NOT_OBSERVED = (*INDICES, "index", "timestamp")


def read_lerobot(path: Path, fields: Sequence[str] = (), action: str = "") -> Demonstrations:
    """A folder as :func:`diffax.data.read_demonstrations` says; ``action`` is "action" by default.

    Fields are the features that hold numbers, but for bookkeeping and "next.*". An episode's task is that of
    its first step. ``about`` names the features that were ``left_out``: videos, pictures and text. Statistics
    are not used, but those of another shape than their feature are refused: other tools would fail on them.
    """
    info = _read_info(path)
    features, action = info["features"], action or "action"
    declared = {column: _declared(path, column, feature) for column, feature in features.items()}
    numbers = {column: field for column, field in declared.items() if field is not None}
    require(action in numbers, f"{path}: features", sorted(features), f"{action!r} among them, of numbers")
    columns = {"state" if c == STATE else c: c for c in numbers if _is_seen(c, action)}
    held = {name: numbers[column] for name, column in columns.items()}
    chosen = {"action": action} | {name: columns[name] for name in choose_fields(str(path), held, fields)}
    shapes = {column: numbers[column].shape or (1,) for column in chosen.values()}
    _check_statistics(path / "meta" / "stats.json", shapes)
    table = _read_data(path, shapes)
    ends = _check_rows(path, table)
    task, tasks = _number_tasks(path, table["task_index"], ends)
    steps = {name: as_rows(f"{path}: {column}", table[column]) for name, column in chosen.items()}
    left_out = [column for column in features if column not in numbers]
    about = {key: info.get(key) for key in ("fps", "robot_type")}
    about |= {"format": "lerobot", "source": str(path), "left_out": left_out, "splits": _splits(info)}
    return Demonstrations(Episodes(steps, ends, task), tasks, about)


def _is_seen(column: str, action: str) -> bool:
    return column not in (*_NOT_OBSERVED, action) and not column.startswith("next.")


def _read_info(path: Path) -> dict[str, Any]:
    file = path / "meta" / "info.json"
    info = _read_json(file)
    version = str(info.get("codebase_version"))
    require(version.startswith("v3."), f"{file}: codebase_version", version, "v3.0 (LeRobot converts)")
    require(isinstance(info.get("features"), dict), f"{file}: keys", sorted(info), "features, a JSON object")
    return info


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: got {error!s}, allowed: a whole JSON file") from error
    require(isinstance(found, dict), str(file), type(found).__name__, "a JSON object")
    return found


def _declared(path: Path, column: str, feature: Any) -> Field | None:
    """Of a feature of numbers, else none: "video", "image" and "string" are types of LeRobot's own."""
    try:
        shape, kind = tuple(int(size) for size in feature["shape"]), str(feature["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        where = f"{path}/meta/info.json: features.{column}"
        raise ValueError(f"{where}: got {feature!r}, allowed: a dtype and a shape") from error
    try:
        dtype = np.dtype(kind)
    except TypeError:
        return None
    return Field(shape, dtype) if dtype.kind in "fiub" else None


def _splits(info: Mapping[str, Any]) -> dict[str, list[int]]:
    """Ranges "first:end" as numbers of episodes."""
    ranges = {name: str(text).split(":") for name, text in (info.get("splits") or {}).items()}
    whole = {name: ends for name, ends in ranges.items() if len(ends) == 2 and all(map(str.isdigit, ends))}
    return {name: list(range(int(first), int(end))) for name, (first, end) in whole.items()}


def _check_statistics(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Those of the vectors that are read have a feature's shape, but for the count.

    LeRobot itself gives tables of numbers statistics of this shape or that, so theirs are not looked at.
    """
    statistics = _read_json(file) if file.is_file() else {}
    for column, shape in shapes.items():
        found = statistics.get(column, {})
        require(isinstance(found, dict), f"{file}: {column}", type(found).__name__, "a JSON object")
        for name, values in found.items() if len(shape) == 1 else ():
            try:
                got = np.shape(values) or (1,)
            except ValueError:  # lists of different lengths
                got = (0,)
            require(name == "count" or got == shape, f"{file}: {column}.{name}: shape", got, f"{shape}")


def _read_data(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Columns of every data file, rows in the order of their episodes and frames."""
    wanted = {**shapes, **dict.fromkeys(INDICES, (1,))}
    parts = [_read_columns(file, wanted) for file in _find_files(path, "data")]
    table = {column: np.concatenate([part[column] for part in parts]) for column in wanted}
    for column in INDICES:
        table[column] = table[column].reshape(-1).astype(np.int64)
    order = np.lexsort((table["frame_index"], table["episode_index"]))
    return {column: values[order] for column, values in table.items()}


def _find_files(path: Path, folder: str) -> list[Path]:
    files = sorted((path / folder).glob("*/*.parquet"))
    require(bool(files), f"{path}/{folder}: files", 0, "chunk-000/file-000.parquet and on")
    return files


def _read_table(file: Path, columns: Sequence[str]) -> Any:
    parquet = optional_import("pyarrow.parquet", "robots")
    try:
        opened = parquet.ParquetFile(file)
        present = opened.schema_arrow.names
        table = opened.read(columns=[column for column in columns if column in present])
    except Exception as error:  # pyarrow's errors share no base class with OSError
        raise ValueError(f"{file}: got {error!s}, allowed: a whole Parquet file") from error
    missing = [column for column in columns if column not in present]
    require(not missing, f"{file}: columns", present, f"{missing} among them")
    return table


def _read_columns(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    table = _read_table(file, list(shapes))
    require(table.num_rows > 0, f"{file}: rows", table.num_rows, "one or more")
    return {name: _to_numpy(f"{file}: {name}", table.column(name), shape) for name, shape in shapes.items()}


def _to_numpy(where: str, column: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Nested lists of one shape, (n, *shape); a feature of shape (1,) is stored without a list."""
    compute = optional_import("pyarrow.compute", "robots")
    rows, sizes = len(column), []
    while hasattr(column.type, "value_type"):  # a list, of fixed size or not
        lengths = compute.unique(compute.list_value_length(column)).to_pylist()
        require(len(lengths) == 1 and bool(lengths[0]), f"{where}: lengths of rows", lengths, f"{shape}")
        sizes.append(lengths[0])
        column = compute.list_flatten(column)
    got = tuple(sizes) or (1,)
    require(got == shape, f"{where}: shape of a step", got, f"{shape}, as in meta/info.json")
    require(column.null_count == 0, f"{where}: empty values", column.null_count, "0")
    return np.asarray(column).reshape(rows, *shape)


def _check_rows(path: Path, table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where episodes end, once steps and ``meta/episodes`` agree on which there are and how long they are."""
    told = {"episode_index": (1,), "length": (1,)}
    parts = [_read_columns(file, told) for file in _find_files(path, "meta/episodes")]
    index, length = (np.concatenate([part[name] for part in parts]).reshape(-1) for name in told)
    order = np.argsort(index)
    found, counts = np.unique(table["episode_index"], return_counts=True)
    differ = sorted(set(index.tolist()) ^ set(found.tolist()))
    allowed = "one entry in meta/episodes for each episode in data"
    require(not differ and len(index) == len(found), f"{path}: episodes", differ or "duplicates", allowed)
    for episode, rows, expected in zip(found, counts, length[order], strict=True):
        where = f"{path}/data: episode {episode}: rows"
        require(bool(rows == expected), where, int(rows), f"{expected}, its length in meta/episodes")
    ends = np.cumsum(counts)
    frames = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    bad = np.flatnonzero(table["frame_index"] != frames)
    at = int(table["episode_index"][bad[0]]) if bad.size else 0
    require(bad.size == 0, f"{path}/data: episode {at}: frame_index", "gaps or repeats", "0, 1, 2, ...")
    return ends


def _number_tasks(path: Path, task_index: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each episode's task as a place in the table of sentences, in the order of the table's numbers."""
    file = path / "meta" / "tasks.parquet"
    table = _read_table(file, ["task_index"])
    numbers = np.asarray(table.column("task_index"))
    # the sentences are the index of a pandas table, which not all of its writers gave a name
    sentences = _read_sentences(file)
    require(len(set(numbers)) == len(numbers), f"{file}: task_index", "duplicates", "a number for each task")
    order = np.argsort(numbers)
    first = task_index[np.concatenate([[0], ends[:-1]])]
    unknown = sorted(set(first.tolist()) - set(numbers.tolist()))
    require(not unknown, f"{path}/data: task_index", unknown, f"numbers in {file.name}")
    return np.searchsorted(numbers[order], first), tuple(sentences[i] for i in order)


def _read_sentences(file: Path) -> list[str]:
    parquet = optional_import("pyarrow.parquet", "robots")
    present = parquet.ParquetFile(file).schema_arrow.names
    names = [name for name in ("task", "__index_level_0__") if name in present]
    require(bool(names), f"{file}: columns", present, "'task' among them")
    return [str(sentence) for sentence in _read_table(file, names[:1]).column(names[0]).to_pylist()]
