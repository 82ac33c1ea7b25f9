"""The run's memory: a queue in SQLite (WAL), and Parquet files of the stages that are complete.

A task is pending, leased (by a process, for a time) or done; its result and its state change in one
transaction. A complete stage moves to ``data/STAGE/part-HASH.parquet``, sorted by id, under temporary names
that are renamed, and only then leaves the queue: files and queue are the truth, whatever was killed when.
Every part is named by its content, so undisturbed and resumed runs have the same files. What is added to a
complete stage, or taken out of it, opens it again."""

import fcntl
import hashlib
import itertools
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffax.data.optional import optional_import
from experiments.sage_rt.backends.base import Reply
from experiments.sage_rt.tasks import Done, Task, canonical

_TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, stage TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, owner TEXT, until REAL,
    inputs TEXT, result TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_tasks ON tasks (stage, state, id) WHERE state < 2;
CREATE INDEX IF NOT EXISTS of_stage ON tasks (stage, id);
CREATE TABLE IF NOT EXISTS costs (
    stage TEXT PRIMARY KEY, replies INTEGER, attempts INTEGER, prompt_tokens INTEGER,
    completion_tokens INTEGER, seconds REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (stage TEXT, number INTEGER, file TEXT, rows INTEGER, PRIMARY KEY (stage,
number)); """
_PENDING, _LEASED, _DONE = 0, 1, 2
_PART = 50_000  # rows of a file
_NUMBERS = itertools.count()  # of this process's objects
_LEASE = 3600.0  # seconds until another host takes a task over; here a dead owner's go back at once


class Store:
    """The folder's queue and files. An object belongs to one thread; processes of a host may share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._owner = f"{os.getpid()}:{_started(os.getpid())}:{next(_NUMBERS)}"
        self._base = sqlite3.connect(folder / "queue.sqlite", isolation_level=None, timeout=60)
        os.chmod(folder / "queue.sqlite", 0o600)
        self._base.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _TABLES)
        self.release()

    def close(self) -> None:
        """Close the queue."""
        self._base.close()

    def add(self, tasks: Iterable[Task]) -> None:
        """Put tasks in; those that are known stay as they are."""
        self._insert((task.id, task.stage, _PENDING, canonical(task.inputs), None) for task in tasks)

    def add_done(self, stage: str, rows: Iterable[Done]) -> None:
        """Put in what needed no work of a model."""
        self._insert((row.id, stage, _DONE, canonical(row.inputs), canonical(row.result)) for row in rows)

    def lease(self, stage: str, count: int) -> list[Task]:
        """At most ``count`` pending tasks, now this process's."""
        until = time.time() + _LEASE
        with self._transaction():
            rows = self._base.execute(
                "SELECT id, inputs FROM tasks WHERE stage = ? AND state = ? ORDER BY id LIMIT ?",
                (stage, _PENDING, count),
            ).fetchall()
            self._base.executemany(
                "UPDATE tasks SET state = ?, owner = ?, until = ? WHERE id = ?",
                [(_LEASED, self._owner, until, row[0]) for row in rows],
            )
        return [Task(row[0], stage, json.loads(row[1])) for row in rows]

    def finish(self, task: Task, result: dict[str, Any], reply: Reply) -> None:
        """A task's result, and what it cost, in one transaction; the first result of a task stands."""
        with self._transaction():
            changed = self._base.execute(
                "UPDATE tasks SET state = ?, result = ?, owner = NULL WHERE id = ? AND state < ?",
                (_DONE, canonical(result), task.id, _DONE),
            )
            self._base.execute(
                "INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (stage) DO UPDATE SET "
                "replies = replies + excluded.replies, attempts = attempts + excluded.attempts, "
                "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                "completion_tokens = completion_tokens + excluded.completion_tokens, "
                "seconds = seconds + excluded.seconds",
                (task.stage, changed.rowcount, *reply[3:]),
            )

    def left(self, stage: str) -> int:
        """Tasks that are not done, those of other processes included."""
        return self._one("SELECT count(*) FROM tasks WHERE stage = ? AND state < ?", stage, _DONE)

    def size(self, stage: str) -> int:
        """Tasks, done or not."""
        return self._one("SELECT count(*) FROM tasks WHERE stage = ?", stage)

    def retry(self, stage: str, *derived: str) -> int:
        """Drop what ended in "error", and with it stages that follow from it alone; how many were dropped.

        They are asked for again when they are added again.
        """
        with self._transaction():
            query = "DELETE FROM tasks WHERE stage = ? AND json_extract(result, '$.status') = 'error'"
            self._open_again(stage)
            dropped = self._base.execute(query, (stage,)).rowcount
            for one in derived if dropped else ():
                self._base.execute("DELETE FROM parts WHERE stage = ?", (one,))
                self._base.execute("DELETE FROM tasks WHERE stage = ?", (one,))
        return dropped

    def ids(self, stage: str) -> set[str]:
        """Of all tasks, done or not."""
        return {row[0] for row in self._base.execute("SELECT id FROM tasks WHERE stage = ?", (stage,))}

    def keep(self, stage: str, ids: set[str]) -> None:
        """Drop all others."""
        others = self.ids(stage) - ids
        if others:
            with self._transaction():
                self._open_again(stage)
                self._base.executemany("DELETE FROM tasks WHERE id = ?", [(one,) for one in others])

    def costs(self) -> dict[str, dict[str, float]]:
        """Of each stage: replies, and attempts, tokens and seconds over all attempts."""
        names = ("replies", "attempts", "prompt_tokens", "completion_tokens", "seconds")
        rows = self._base.execute("SELECT * FROM costs ORDER BY stage").fetchall()
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}

    def rows(self, stage: str) -> Iterator[Done]:
        """What is done, by id; a part of a file at a time."""
        last = ""
        while not self.parts(stage) and (found := self._some(stage, last)):
            last = found[-1].id
            yield from found
        for file in self.parts(stage):  # another process may have moved the rest there meanwhile
            yield from (row for row in _read_part(file) if row.id > last)

    def parts(self, stage: str) -> list[Path]:
        """The files of a stage that is complete; none before."""
        found = self._base.execute("SELECT file FROM parts WHERE stage = ? ORDER BY number", (stage,))
        return [self.folder / row[0] for row in found.fetchall()]

    def complete(self, stage: str) -> None:
        """Move a stage whose tasks are all done into files; of several processes one does."""
        with open(self.folder / "complete.lock", "w") as lock:
            os.chmod(lock.name, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.size(stage) and not self.parts(stage):
                assert not self.left(stage), stage
                self._write(stage)

    def release(self) -> None:
        """Take back the tasks of processes that are no more, and those whose lease is over."""
        with self._transaction():
            owners = self._base.execute("SELECT DISTINCT owner FROM tasks WHERE state = 1").fetchall()
            gone = [owner for (owner,) in owners if not _alive(owner)]
            self._base.executemany("UPDATE tasks SET state = 0 WHERE state = 1 AND owner = ?", zip(gone))
            self._base.execute("UPDATE tasks SET state = 0 WHERE state = 1 AND until < ?", (time.time(),))

    def give_back(self, stage: str) -> None:
        """What was leased and is not finished is pending again."""
        query = "UPDATE tasks SET state = 0 WHERE stage = ? AND state = 1 AND owner = ?"
        with self._transaction():
            self._base.execute(query, (stage, self._owner))

    def _write(self, stage: str) -> None:
        folder = self.folder / "data" / stage
        rows, written = self.rows(stage), []
        while some := list(itertools.islice(rows, _PART)):
            written.append((_write_part(folder, some), len(some)))
        with self._transaction():
            names = [
                (stage, n, str(file.relative_to(self.folder)), size) for n, (file, size) in enumerate(written)
            ]
            self._base.executemany("INSERT INTO parts VALUES (?, ?, ?, ?)", names)
            self._base.execute("UPDATE tasks SET inputs = NULL, result = NULL WHERE stage = ?", (stage,))
        for file in set(folder.iterdir()) - {file for file, _ in written}:
            file.unlink()  # of a killed run, or from before the stage was opened again

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows of one stage that are not known; a complete stage that gets some is open again."""
        query = "INSERT OR IGNORE INTO tasks (id, stage, state, inputs, result) VALUES (?, ?, ?, ?, ?)"
        with self._transaction():
            stages: set[str] = set()
            for row in rows:
                if self._base.execute(query, row).rowcount:
                    stages.add(row[1])
            for stage in stages:
                self._open_again(stage)

    def _open_again(self, stage: str) -> None:
        """Within a transaction: a stage's content is in the queue again; its files go when it is complete."""
        for file in self.parts(stage):
            values = ((canonical(row.inputs), canonical(row.result), row.id) for row in _read_part(file))
            self._base.executemany("UPDATE tasks SET inputs = ?, result = ? WHERE id = ?", values)
        self._base.execute("DELETE FROM parts WHERE stage = ?", (stage,))

    def _some(self, stage: str, last: str) -> list[Done]:
        found = self._base.execute(
            "SELECT id, inputs, result FROM tasks WHERE stage = ? AND id > ? AND state = ? "
            "AND inputs IS NOT NULL ORDER BY id LIMIT 2000",
            (stage, last, _DONE),
        ).fetchall()
        return [Done(row[0], json.loads(row[1]), json.loads(row[2])) for row in found]

    def _one(self, query: str, *values: Any) -> int:
        return int(self._base.execute(query, values).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")


def _started(process: int) -> str:
    """When a process began, in the kernel's ticks: a number of a process can come back as another's."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _alive(owner: str) -> bool:
    process, started, _ = owner.split(":")
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(int(process)) == started


def _write_part(folder: Path, rows: list[Done]) -> Path:
    """Parquet of id, inputs and result (JSON), named by its content."""
    arrow, parquet = optional_import("pyarrow", "safety"), optional_import("pyarrow.parquet", "safety")
    texts = [(row.id, canonical(row.inputs), canonical(row.result)) for row in rows]
    name = hashlib.blake2b("\n".join("\n".join(text) for text in texts).encode(), digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    columns = dict(zip(("id", "inputs", "result"), map(list, zip(*texts, strict=True)), strict=True))
    temporary, file = folder / f".part-{name}.tmp", folder / f"part-{name}.parquet"
    parquet.write_table(arrow.table(columns), temporary, compression="zstd")
    os.chmod(temporary, 0o600)
    with open(temporary, "rb") as written:
        os.fsync(written.fileno())
    temporary.rename(file)
    return file


def _read_part(file: Path) -> Iterator[Done]:
    parquet = optional_import("pyarrow.parquet", "safety")
    for batch in parquet.ParquetFile(file).iter_batches(2000):
        for row in batch.to_pylist():
            yield Done(row["id"], json.loads(row["inputs"]), json.loads(row["result"]))
