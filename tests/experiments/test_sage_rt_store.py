"""The queue: every task once, whatever is killed when; files of what is complete; errors asked for again."""

import asyncio
import os
import stat
import subprocess
import sys

import pytest
from launching import ENVIRONMENT, ROOT
from sage_runs import evaluated, fresh, shards, small_run

from experiments.sage_rt import stages, store, toyland, toymodels
from experiments.sage_rt.backends.base import Reply, Request
from experiments.sage_rt.backends.scripted import ScriptedBackend
from experiments.sage_rt.pipeline import Stage, _work, work
from experiments.sage_rt.store import Store
from experiments.sage_rt.tasks import Done, make_task

WORKER = """
import asyncio, sys
from pathlib import Path
from experiments.sage_rt.store import Store
from experiments.sage_rt.backends.base import Reply
store = Store(Path(sys.argv[1]))
leased = store.lease("raw", 5)
print("leased", flush=True)
if sys.argv[2] == "die":
    sys.stdin.readline()
while leased:
    for task in leased:
        print(task.id)
        store.finish(task, {"status": "ok"}, Reply("ok"))
    leased = store.lease("raw", 5)
store.complete("raw")
"""


def tasks(count, stage="raw"):
    return [make_task(stage, {"leaf": "a", "number": n}) for n in range(count)]


@pytest.fixture
def queue(tmp_path):
    opened = Store(tmp_path)
    yield opened
    opened.close()


def start_worker(folder, how):
    words = [sys.executable, "-c", WORKER, str(folder), how]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True)


def finish(queue, task, status="ok", **reply):
    queue.finish(task, {"status": status}, Reply(status, **reply))


def test_a_task_is_leased_once_and_added_once(queue):
    queue.add(tasks(5))
    first = queue.lease("raw", 3)
    queue.add(tasks(5))
    rest = queue.lease("raw", 3)
    assert {task.id for task in first + rest} == {task.id for task in tasks(5)}
    assert (len(first), len(rest), queue.lease("raw", 3)) == (3, 2, [])
    for task in first:
        finish(queue, task)
    assert (queue.left("raw"), queue.size("raw")) == (2, 5)
    queue.give_back("raw")
    assert len(queue.lease("raw", 9)) == 2


def test_who_lives_keeps_its_leases_until_they_end(queue, tmp_path, monkeypatch):
    queue.add(tasks(2))
    (late,) = queue.lease("raw", 1)
    other = Store(tmp_path)
    assert len(other.lease("raw", 9)) == 1
    monkeypatch.setattr(store.time, "time", lambda: 10**10)
    other.release()
    assert other.lease("raw", 9)
    finish(other, late)
    queue.finish(late, {"status": "late"}, Reply("ok"))
    assert [row.result for row in queue.rows("raw")] == [{"status": "ok"}]  # the first result stands
    assert queue.costs()["raw"]["attempts"] == 2
    other.close()


def test_the_dead_give_back_and_two_processes_share(queue, tmp_path):
    queue.add(tasks(40))
    dead = start_worker(tmp_path, "die")
    assert dead.stdout.readline() == "leased\n"
    assert len(queue.lease("raw", 100)) == 35
    queue.give_back("raw")
    queue.release()
    assert queue.left("raw") == 40
    assert len(queue.lease("raw", 100)) == 35  # it lives, and keeps its own
    queue.give_back("raw")
    dead.kill()
    dead.communicate()
    workers = [start_worker(tmp_path, "work") for _ in range(2)]
    done = [line for one in workers for line in one.communicate(timeout=60)[0].split() if line != "leased"]
    assert [one.returncode for one in workers] == [0, 0]
    assert sorted(done) == sorted(task.id for task in tasks(40))
    assert queue.costs()["raw"]["replies"] == 40
    assert len(list(queue.rows("raw"))) == 40


def test_a_process_that_waits_takes_over_from_one_that_died(tmp_path):
    with small_run(tmp_path) as run:
        run.store.add(tasks(8, "expand"))
        other = start_worker(run.store.folder, "die")
        other.stdout.readline()
        base = run.store._base
        base.execute("UPDATE tasks SET state = 1, owner = ?", (f"{other.pid}:{store._started(other.pid)}:0",))

        async def wait():
            stage = Stage("expand", "generator", lambda t: Request(t.id, ()), lambda t, r: {"status": "ok"})
            run.backends["generator"] = ScriptedBackend(lambda request: "x")
            working = asyncio.create_task(_work(run, stage))
            await asyncio.sleep(0.2)
            assert run.store.left("expand") == 8
            other.kill()
            other.wait()
            await asyncio.wait_for(working, 20)

        asyncio.run(wait())
        assert run.store.left("expand") == 0


def test_costs_add_up_over_attempts(queue):
    queue.add(tasks(3))
    for task in queue.lease("raw", 3):
        finish(queue, task, attempts=2, prompt_tokens=3, completion_tokens=4, seconds=0.5)
    queue.complete("raw")
    queue.add(tasks(4))
    (task,) = queue.lease("raw", 9)
    finish(queue, task, "error", attempts=6)
    costs = {"replies": 4, "attempts": 12, "prompt_tokens": 9, "completion_tokens": 12, "seconds": 1.5}
    assert queue.costs() == {"raw": costs}


def test_complete_stages_are_files_named_by_content(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_PART", 2)
    rows = [Done(f"{n}", {"leaf": "a"}, {"status": "ok", "n": n}) for n in range(5)]
    queue.add_done("raw", reversed(rows))
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    (folder / ".part-of-a-killed-run.tmp").write_text("half")
    assert (list(queue.rows("raw")), queue.parts("raw")) == (rows, [])
    queue.complete("raw")
    first = shards(tmp_path)
    assert len(first) == 3
    assert list(queue.rows("raw")) == rows
    queue.complete("raw")
    queue.add_done("raw", [rows[0]])
    assert shards(tmp_path) == first
    queue.add_done("raw", [Done("9", {"leaf": "b"}, {"status": "ok"})])  # opens it
    assert [row.id for row in queue.rows("raw")] == ["0", "1", "2", "3", "4", "9"]
    queue.keep("raw", {row.id for row in rows})
    queue.complete("raw")
    assert shards(tmp_path) == first  # nothing of the files in between is left


def test_a_reader_goes_on_when_the_stage_moves(queue, tmp_path):
    rows = [Done(f"{n:05}", {"leaf": "a"}, {"status": "ok"}) for n in range(4500)]
    queue.add_done("raw", rows)
    reading = queue.rows("raw")
    begun = [next(reading) for _ in range(10)]
    other = Store(tmp_path)
    other.complete("raw")
    other.close()
    assert [*begun, *reading] == rows


def test_a_kill_while_files_are_written_loses_nothing(queue, tmp_path, monkeypatch):
    queue.add_done("raw", [Done("0", {}, {"status": "ok"})])
    whole = store._write_part

    def killed(folder, rows):
        whole(folder, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        queue.complete("raw")
    assert [row.id for row in queue.rows("raw")] == ["0"]
    assert queue.parts("raw") == []
    monkeypatch.setattr(store, "_write_part", whole)
    queue.complete("raw")
    assert len(queue.parts("raw")) == len(shards(tmp_path)) == 1


def test_errors_are_asked_for_again_also_of_complete_stages(tmp_path):
    def poor(request):
        """Two of three of the answers are lost."""
        found = toymodels.target(request)
        return Reply("error", reason="away") if int(request.id, 16) % 3 else found

    with small_run(tmp_path, toyland_itself(), target=poor) as run:
        first = evaluated(run)
        assert 300 < sum(outcome == "error" for outcome in first.values()) < 1100
        asked = []
        run.backends["target"] = ScriptedBackend(lambda r: asked.append(1) or toymodels.target(r), "target")
        dropped = run.store.retry("respond.target")
        second = evaluated(run)
        assert len(asked) == dropped == sum(outcome == "error" for outcome in first.values())
        assert second.keys() == first.keys()
        assert "error" not in second.values()
        assert all(second[query] == first[query] for query in first if first[query] != "error")


def test_a_retried_generator_gives_what_one_without_errors_does(tmp_path):
    changes = {"generate__topics": 2, "generate__rounds": 3, "generate__styles": ("direct",)}

    def poor(request):
        return Reply("error") if int(request.id, 16) % 5 < 2 else toymodels.generator(request)

    with small_run(fresh(tmp_path / "a"), toyland_itself(), **changes) as run:
        stages.generate(run)
        whole = {row.id: row.result for row in run.store.rows("query")}
    with small_run(fresh(tmp_path / "b"), toyland_itself(), generator=poor, **changes) as run:
        stages.generate(run)
        assert len(list(run.store.rows("query"))) < len(whole)
        run.backends["generator"] = ScriptedBackend(toymodels.generator, "generator")
        assert sum(run.store.retry(stage, "query") for stage in ("expand", "raw", "extract", "control"))
        stages.generate(run)
        again = {row.id: row.result for row in run.store.rows("query")}
    assert again.keys() >= whole.keys()


def test_an_interrupted_expansion_asks_for_nothing_twice(tmp_path):
    """Rounds that are replayed ask with what was known then, not with what is known now."""
    changes = {"generate__topics": 3, "generate__number": 1}
    asked, stop = [], []

    def play(request):
        asked.append(request.id)
        if len(asked) in stop:
            raise KeyboardInterrupt
        return toymodels.generator(request)

    with small_run(fresh(tmp_path / "a"), toyland_itself(), generator=play, **changes) as run:
        stages._expand(run)
        whole, expected = shards(run.store.folder), sorted(asked)
    asked, stop = [], [400, 700, 1000]
    for _ in range(4):
        with small_run(fresh(tmp_path / "b"), toyland_itself(), generator=play, **changes) as run:
            try:
                stages._expand(run)
            except KeyboardInterrupt:
                continue
            assert shards(run.store.folder) == whole
    assert sorted(set(asked)) == sorted(set(expected))
    assert len(asked) <= len(expected) + 3 * 64


def test_one_name_is_one_model(tmp_path):
    with small_run(tmp_path, toyland_itself()) as run:
        evaluated(run)
        run.backends["target"] = ScriptedBackend(toymodels.target, "other")
        with pytest.raises(ValueError, match=r"config.target.name: got 'target', allowed: a name of its own"):
            stages.respond(run)


def test_work_that_fails_gives_its_tasks_back(tmp_path):
    with small_run(tmp_path) as run:
        stage = Stage("expand", "generator", lambda task: 1 / 0, lambda task, reply: {})
        with pytest.raises(ZeroDivisionError):
            work(run, stage, tasks(3, "expand"))
        assert len(run.store.lease("expand", 9)) == 3


def test_only_the_owner_reads_what_is_written(tmp_path):
    with small_run(tmp_path, toyland_itself()) as run:
        evaluated(run)
        for path in (run.store.folder, *run.store.folder.rglob("*")):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def toyland_itself():
    return toyland.taxonomy().name
