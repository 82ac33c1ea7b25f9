"""A run that is killed at any instant and started again is the run that nothing happened to."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time

import pytest
from launching import ENVIRONMENT, ROOT
from toy_endpoint import toy_endpoint

CONCURRENCY = 16


def command(folder, url):
    return [
        sys.executable, "-m", "experiments.sage_rt.generate", "--config=configs/sage_rt/toyland.py:smoke",
        f"--workdir={folder}", "--config.generator.kind=http", f"--config.generator.url={url}",
        "--config.generator.model=toy", f"--config.generator.concurrency={CONCURRENCY}",
    ]  # fmt: skip


def start(folder, url):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(folder, url), cwd=ROOT, env=ENVIRONMENT, **quiet)


def contents(folder):
    """The digest of every file of data, by its path."""
    files = sorted((folder / "data").rglob("*.parquet"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Its files, its requests and the server, which goes on."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with toy_endpoint(0.015) as server:
        assert start(folder, server.url).wait(120) == 0
        yield contents(folder), sum(server.asked.values()), server


def killed(folder, server, kills, seed):
    """Run to the end through so many kills; how many really hit a run that went on."""
    draw, hits = random.Random(seed), 0
    while hits < kills:
        before = sum(server.asked.values())
        process = start(folder, server.url)
        while sum(server.asked.values()) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.6 / (1 + kills / 4)))  # from the first request on
        if process.poll() is not None:
            return hits
        process.send_signal(signal.SIGKILL)
        process.wait()
        hits += 1
    assert start(folder, server.url).wait(120) == 0
    return hits


def check(undisturbed, folder, kills, seed):
    expected, requests, server = undisturbed
    server.asked.clear()
    hits = killed(folder, server, kills, seed)
    assert hits == kills
    assert contents(folder) == expected
    assert requests <= sum(server.asked.values()) <= requests + kills * CONCURRENCY
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts["query"] > 500


def test_three_kills_leave_no_trace(undisturbed, tmp_path):
    check(undisturbed, tmp_path / "run", 3, 0)


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(undisturbed, tmp_path):
    check(undisturbed, tmp_path / "run", 20, 1)
