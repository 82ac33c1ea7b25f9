"""Metrics of a run: JSON lines, CSV, and TensorBoard where its writer is installed."""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffax.io.files import write_text


class MetricsWriter:
    """Appends one JSON object a line to ``metrics.jsonl`` in a run's directory.

    ``resume(step)`` drops what a killed run wrote after its last checkpoint, so that a resumed run leaves the
    same file as an undisturbed one. Speed goes to ``performance.jsonl``, which only grows. ``close`` writes
    ``metrics.csv`` with the same rows.
    """

    def __init__(self, directory: str | Path, tensorboard: bool = True) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._path = self._directory / "metrics.jsonl"
        self._board = _open_tensorboard(self._directory) if tensorboard else None

    def resume(self, step: int) -> None:
        """Keep the rows up to ``step``; a half-written last line goes too."""
        rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        if self._path.exists():
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row, on disk when the call returns."""
        self._append(self._path.name, step, values)

    def write_performance(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a row to ``performance.jsonl``: speed and memory, which no two runs share."""
        self._append("performance.jsonl", step, figures)

    def close(self) -> None:
        """Write the CSV file, and finish TensorBoard's."""
        write_text(self._directory / "metrics.csv", to_csv(read_metrics(self._path)))
        if self._board is not None:
            self._board.close()

    def _append(self, name: str, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **{field: float(value) for field, value in values.items()}}
        with (self._directory / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if self._board is not None:
            _add_to_tensorboard(self._board, step, values)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a line cut short by a kill is left out."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV, with every column that occurs, in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _open_tensorboard(directory: Path) -> Any:
    """TensorBoard's own event writer, which needs no TensorFlow; None where it is not installed."""
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return None
    return EventFileWriter(str(directory / "tensorboard"))


def _add_to_tensorboard(board: Any, step: int, values: Mapping[str, float]) -> None:
    import time

    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
    board.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
