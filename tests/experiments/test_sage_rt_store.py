"""The queue and its files: each task once, whoever dies; complete stages are files that are whole."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
from launching import ENVIRONMENT, ROOT

from experiments.sage_rt.backends.base import Reply
from experiments.sage_rt.store import Store
from experiments.sage_rt.tasks import Done, digest, make_task

REPLY = Reply("ok", "said", attempts=2, prompt_tokens=3, completion_tokens=4, seconds=0.5)


def tasks(count, stage="raw"):
    return [make_task(stage, {"number": number}) for number in range(count)]


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path)
    yield found
    found.close()


def finish_all(store, stage="raw"):
    while some := store.lease(stage, 7):
        for task in some:
            store.finish(task, {"status": "ok", "text": f"said {task.inputs['number']}"}, REPLY)


# -- tasks --------------------------------------------------------------------------------------------------


def test_an_id_is_of_all_that_counts_and_of_nothing_else():
    one = make_task("raw", {"a": 1, "b": "x"}, "template", ("model", 0.0))
    assert one.id == make_task("raw", {"b": "x", "a": 1}, "template", ("model", 0.0)).id
    others = [
        make_task("extract", {"a": 1, "b": "x"}, "template", ("model", 0.0)),
        make_task("raw", {"a": 2, "b": "x"}, "template", ("model", 0.0)),
        make_task("raw", {"a": 1, "b": "x"}, "another", ("model", 0.0)),
        make_task("raw", {"a": 1, "b": "x"}, "template", ("model", 0.7)),
    ]
    assert len({one.id, *(other.id for other in others)}) == 5


def test_tasks_that_are_added_again_stay_as_they_are(store):
    store.add(tasks(5))
    finish_all(store)
    store.add(tasks(8))
    assert (store.size("raw"), store.left("raw")) == (8, 3)


def test_a_leased_task_is_nobody_else_s(store, tmp_path):
    store.add(tasks(10))
    mine = store.lease("raw", 6)
    other = Store(tmp_path)
    theirs = other.lease("raw", 10)
    other.close()
    assert (len(mine), len(theirs)) == (6, 4)
    assert not {task.id for task in mine} & {task.id for task in theirs}


def test_the_first_result_stands_and_all_attempts_cost(store):
    store.add(tasks(1))
    (task,) = store.lease("raw", 1)
    store.finish(task, {"status": "ok", "text": "first"}, REPLY)
    store.finish(task, {"status": "ok", "text": "second"}, REPLY)
    assert [row.result["text"] for row in store.rows("raw")] == ["first"]
    costs = {"replies": 1, "attempts": 4, "prompt_tokens": 6, "completion_tokens": 8, "seconds": 1.0}
    assert store.costs()["raw"] == costs


def test_errors_are_put_back_on_demand(store):
    store.add(tasks(4))
    for number, task in enumerate(store.lease("raw", 4)):
        store.finish(task, {"status": "error" if number % 2 else "ok"}, REPLY)
    assert (store.left("raw"), store.retry("raw"), store.left("raw")) == (0, 2, 2)


# -- processes that die -------------------------------------------------------------------------------------

_WORKER = """
import sys, time
from pathlib import Path
from experiments.sage_rt.backends.base import Reply
from experiments.sage_rt.store import Store
store = Store(Path(sys.argv[1]))
while some := store.lease("raw", 5):
    for task in some:
        time.sleep(0.002)
        store.finish(task, {"status": "ok", "by": sys.argv[2], "text": f"said {task.inputs['number']}"}, Reply("ok"))
    print("some", flush=True)
"""  # noqa: E501


def worker(folder, name):
    words = [sys.executable, "-c", _WORKER, str(folder), name]
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_queue_and_one_is_killed(store, tmp_path):
    store.add(tasks(600))
    first, second = worker(tmp_path, "first"), worker(tmp_path, "second")
    first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    for process in (first, second):
        process.stdout.close()
    reopened = Store(tmp_path)  # takes back what the dead one had
    finish_all(reopened)
    rows = list(reopened.rows("raw"))
    reopened.close()
    assert [row.id for row in rows] == sorted(task.id for task in tasks(600))
    assert {row.result.get("by") for row in rows} >= {"first", "second"}


def test_a_lease_of_another_host_ends_with_its_time(store, tmp_path, monkeypatch):
    store.add(tasks(3))
    store.lease("raw", 3)
    later = time.time() + 7200
    monkeypatch.setattr("experiments.sage_rt.store.time.time", lambda: later)
    other = Store(tmp_path)
    assert len(other.lease("raw", 9)) == 3
    other.close()


# -- files --------------------------------------------------------------------------------------------------


def test_a_complete_stage_is_a_file_named_by_its_content(store, tmp_path):
    store.add(tasks(20))
    finish_all(store)
    before = list(store.rows("raw"))
    stray = tmp_path / "data" / "raw" / ".part-stray.tmp"
    stray.parent.mkdir(parents=True)
    stray.write_text("half")
    store.complete("raw")
    (file,) = store.parts("raw")
    assert list((tmp_path / "data" / "raw").iterdir()) == [file]
    assert list(store.rows("raw")) == before
    table = pyarrow.parquet.read_table(file).to_pylist()
    assert [row["id"] for row in table] == sorted(row["id"] for row in table)
    assert json.loads(table[0]["result"])["status"] == "ok"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "queue.sqlite").stat().st_mode) == 0o600


def test_the_same_rows_have_the_same_file_in_any_order(tmp_path):
    rows = [Done(digest(number), {"n": number}, {"status": "ok"}) for number in range(30)]
    names = []
    for place, some in enumerate((rows, rows[::-1])):
        folder = tmp_path / str(place)
        folder.mkdir()
        store = Store(folder)
        store.add_done("raw", some)
        store.complete("raw")
        names.append([file.name for file in store.parts("raw")])
        contents = store.parts("raw")[0].read_bytes()
        store.close()
    assert names[0] == names[1]
    assert os.path.getsize(tmp_path / "0" / "data" / "raw" / names[0][0]) == len(contents)
