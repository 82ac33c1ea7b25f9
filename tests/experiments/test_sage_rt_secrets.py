"""A key in the environment, an endpoint that sends it back: it is in no file, message or command line."""

import pickle
import subprocess
import sys
import time
import traceback

import pytest
from launching import ENVIRONMENT, ROOT
from sage_runs import fresh, server_in_a_thread, small_run

from experiments.sage_rt import stages
from experiments.sage_rt.backends.http import HttpBackend

KEY = "canary/7f3b-Zq+9"
FORMS = [KEY, KEY.replace("/", "\\/"), "canary%2F7f3b-Zq%2B9", "7f3b-Zq"]


def plan(digest, count):
    """A third is an error with the headers sent, the others are answers that hold the key."""
    return "echo" if int(digest, 16) % 3 == 0 else f"text your key is {KEY} , is it not ?"


def assert_absent(content, where):
    for form in FORMS:
        assert form.encode() not in content, where


def assert_no_file_has_it(folder):
    names = set()
    for path in folder.rglob("*"):
        if path.is_file():
            names.add(path.suffix)
            assert_absent(path.read_bytes(), path)
    return names


def decoded(run):
    """Parquet is compressed: the rows as they are read."""
    stage = [path.name for path in (run.store.folder / "data").iterdir()]
    return repr([list(run.store.rows(name)) for name in stage]).encode()


def test_a_program_shows_it_nowhere(tmp_path):
    flags = [f"--workdir={tmp_path / 'run'}", "--config.target.kind=http", "--config.target.model=m"]
    with small_run(tmp_path, "toyland") as run:
        stages.generate(run)
        (run.store.folder / "config.json").write_text(run.config.to_json())
    with server_in_a_thread(plan) as server:
        flags += [f"--config.target.url={server.url}", "--config.target.key_env=SAGE_KEY"]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.sage_rt.evaluate",
                "--config=configs/sage_rt/toyland.py:smoke",
            ]
            + flags,
            cwd=ROOT,
            env={**ENVIRONMENT, "SAGE_KEY": KEY, "DIFFAX_TRACEBACK": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while process.poll() is None and len(server.log) < 100:
            time.sleep(0.01)
        lines = [path.read_bytes() for path in (tmp_path / "run").glob("*-wal")]
        shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True).stdout
        assert b"experiments.sage_rt.evaluate" in shown
        said = b"".join(process.communicate(timeout=120))
        assert any(seen.authorization == f"Bearer {KEY}" for seen in server.log)
    assert process.returncode == 0, said.decode()
    assert_absent(shown + said + b"".join(lines), "command lines, output, log of the database")
    kinds = assert_no_file_has_it(tmp_path)
    assert kinds >= {".sqlite", ".parquet", ".html", ".json", ".md"}
    with small_run(tmp_path, "toyland") as run:
        found = decoded(run)
    assert b"[key]" in found
    assert_absent(found, "rows")


def test_a_traceback_shows_it_not(tmp_path, monkeypatch, capfd):
    """What goes wrong after the answer came back is told without it."""
    monkeypatch.setenv("SAGE_KEY", KEY)

    def broken(*_):
        raise RuntimeError("the disk is full of plums")

    with server_in_a_thread(plan) as server, small_run(fresh(tmp_path), "toyland") as run:
        run.backends["generator"] = HttpBackend(server.url, "m", key_env="SAGE_KEY")
        monkeypatch.setattr(run.store, "finish", broken)
        with pytest.raises(RuntimeError) as error:
            stages.generate(run)
        wal = (run.store.folder / "queue.sqlite-wal").read_bytes()
        assert len(wal) > 0
        shown = "".join(traceback.format_exception(error.value))
        pickled = pickle.dumps([HttpBackend(server.url, "m", key_env="SAGE_KEY"), str(error.value)])
    out = capfd.readouterr()
    assert_absent((shown + out.out + out.err).encode() + wal + pickled, "traceback")
    assert "plums" in shown
