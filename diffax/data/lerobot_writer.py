"""Writing demonstrations in LeRobot's layout, version 3: states and actions, no images.

What LeRobot expects (0.4 and on): a feature of shape (d,) is a column of lists of d, one of shape (1,) a
plain column; tasks are a pandas table whose index are the sentences; each episode is a group of rows;
statistics stand in ``meta/stats.json`` of all steps and in ``meta/episodes`` of each episode.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.demonstrations import Demonstrations, check_demonstrations
from diffax.data.lerobot import STATE
from diffax.data.optional import optional_import
from diffax.io.files import new_folder, write_json

_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_FILES_IN_CHUNK, _MEGABYTES_IN_FILE = 1000, 100
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# what pandas writes of a table whose index are sentences
_PANDAS = """{"index_columns": ["task"], "column_indexes": [{"name": null, "field_name": null,
"pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}], "columns": [
{"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
"metadata": null}, {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object",
"metadata": null}], "creator": {"library": "pyarrow", "version": "15.0.0"}, "pandas_version": "2.2.0"}"""
_Columns = Mapping[str, np.ndarray]  # (steps, d) each


def write_lerobot(folder: str | Path, demonstrations: Demonstrations, fps: int) -> None:
    """Write the fields "state" and "action", no others, as a LeRobot data set of ``fps`` steps a second.

    The folder is complete or not there. Raises ValueError for a folder that holds something, for fields that
    are no vectors, sentences that occur twice, and episodes that no policy could learn from.
    """
    folder, arrow = Path(folder), optional_import("pyarrow", "robots")
    empty = folder.is_dir() and not any(folder.iterdir())
    require(empty or not folder.exists(), "folder", str(folder), "an empty folder, or a name that is free")
    require(isinstance(fps, int) and fps >= 1, "fps", fps, "an integer >= 1")
    episodes, tasks, about = check_demonstrations(demonstrations, "demonstrations")
    require(len(set(tasks)) == len(tasks), "demonstrations.tasks", tasks, "sentences that differ")
    columns = _make_columns(demonstrations, fps)
    starts = np.concatenate([[0], episodes.ends[:-1]])
    bytes_of_step = sum(values[0].nbytes for values in columns.values())
    place = starts * bytes_of_step // (_MEGABYTES_IN_FILE * 2**20)
    _, file_of = np.unique(place, return_inverse=True)  # no gaps after an episode larger than a file
    with new_folder(folder) as new:
        _write_data(arrow, new, columns, episodes.ends, file_of)
        _write_episodes(arrow, new, columns, demonstrations, file_of)
        _write_tasks(arrow, new, tasks)
        write_json(new / "meta" / "stats.json", {name: _statistics(v) for name, v in columns.items()})
        counts = {"episodes": len(episodes.ends), "frames": int(episodes.ends[-1]), "tasks": len(tasks)}
        write_json(new / "meta" / "info.json", _info(columns, counts, fps, about.get("robot_type")))


def _make_columns(demonstrations: Demonstrations, fps: int) -> dict[str, np.ndarray]:
    """What is stored of each step, (steps, d)."""
    (steps, ends, task), _, _ = demonstrations
    require("state" in steps, "demonstrations: fields", sorted(steps), "'state' among them")
    for name in ("state", "action"):
        shape = steps[name].shape
        require(len(shape) == 2, f"demonstrations: {name}: shape", shape, "(steps, numbers)")
    lengths = np.diff(ends, prepend=0)
    index = np.arange(ends[-1])
    frame = index - np.repeat(ends - lengths, lengths)
    columns = {
        STATE: steps["state"].astype(np.float32),
        "action": steps["action"].astype(np.float32),
        "timestamp": (frame / fps).astype(np.float32)[:, None],
        "frame_index": frame[:, None],
        "episode_index": np.repeat(np.arange(len(ends)), lengths)[:, None],
        "index": index[:, None],
        "task_index": np.repeat(task, lengths)[:, None],
    }
    return {k: v if v.dtype == np.float32 else v.astype(np.int64) for k, v in columns.items()}


def _statistics(values: np.ndarray) -> dict[str, list[Any]]:
    """As LeRobot has them, of every number over the steps."""
    exact = values.astype(np.float64)
    found = {"min": values.min(axis=0), "max": values.max(axis=0)}
    found |= {"mean": exact.mean(axis=0), "std": exact.std(axis=0), "count": np.asarray([len(values)])}
    found |= {name: np.quantile(exact, share, axis=0) for name, share in _QUANTILES.items()}
    return {name: numbers.tolist() for name, numbers in found.items()}


def _place(root: Path, file: int) -> Path:
    """Of a numbered file; its folder is made."""
    chunk, number = divmod(file, _FILES_IN_CHUNK)
    path = root / _FILE.format(chunk_index=chunk, file_index=number)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_data(arrow: Any, root: Path, columns: _Columns, ends: np.ndarray, file_of: np.ndarray) -> None:
    parquet = optional_import("pyarrow.parquet", "robots")
    table = arrow.table({name: _to_arrow(arrow, values) for name, values in columns.items()})
    starts = np.concatenate([[0], ends[:-1]])
    for file in range(file_of[-1] + 1):
        with parquet.ParquetWriter(_place(root / "data", file), table.schema) as writer:
            for episode in np.flatnonzero(file_of == file):
                writer.write_table(table.slice(starts[episode], ends[episode] - starts[episode]))


def _to_arrow(arrow: Any, values: np.ndarray) -> Any:
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
    size = values.shape[1]
    return flat if size == 1 else arrow.FixedSizeListArray.from_arrays(flat, size)


def _write_episodes(
    arrow: Any, root: Path, columns: _Columns, demonstrations: Demonstrations, file_of: np.ndarray
) -> None:
    parquet = optional_import("pyarrow.parquet", "robots")
    (_, ends, task), tasks, _ = demonstrations
    starts = np.concatenate([[0], ends[:-1]])
    rows = []
    for episode, (start, end) in enumerate(zip(starts, ends, strict=True)):
        chunk, file = divmod(int(file_of[episode]), _FILES_IN_CHUNK)
        row = {"episode_index": episode, "tasks": [tasks[task[episode]]], "length": int(end - start)}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": int(start), "dataset_to_index": int(end)}
        for name, values in columns.items():
            found = _statistics(values[start:end])
            row |= {f"stats/{name}/{kind}": numbers for kind, numbers in found.items()}
        rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    parquet.write_table(arrow.Table.from_pylist(rows), _place(root / "meta" / "episodes", 0))


def _write_tasks(arrow: Any, root: Path, tasks: tuple[str, ...]) -> None:
    """Numbers, and the sentences as what pandas takes for the table's index."""
    parquet = optional_import("pyarrow.parquet", "robots")
    table = arrow.table({"task_index": arrow.array(range(len(tasks)), arrow.int64()), "task": list(tasks)})
    parquet.write_table(table.replace_schema_metadata({"pandas": _PANDAS}), root / "meta" / "tasks.parquet")


def _info(columns: _Columns, counts: Mapping[str, int], fps: int, robot: Any) -> dict[str, Any]:
    features: dict[str, dict[str, Any]] = {
        name: {"dtype": values.dtype.name, "shape": [values.shape[1]], "names": None}
        for name, values in columns.items()
    }
    for name, short in ((STATE, "state"), ("action", "action")):
        features[name]["names"] = [f"{short}_{i}" for i in range(columns[name].shape[1])]
    return {
        "codebase_version": "v3.0",
        "robot_type": robot,
        "total_episodes": counts["episodes"],
        "total_frames": counts["frames"],
        "total_tasks": counts["tasks"],
        "chunks_size": _FILES_IN_CHUNK,
        "data_files_size_in_mb": _MEGABYTES_IN_FILE,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{counts['episodes']}"},
        "data_path": f"data/{_FILE}",
        "video_path": None,
        "features": features,
    }
