"""Runs that are killed at any moment and started again end with the files of a run that never was."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from launching import ENVIRONMENT, ROOT
from sage_runs import server_in_a_thread, shards

from experiments.sage_rt import toymodels
from experiments.sage_rt.backends.base import Message, Request
from experiments.sage_rt.tasks import digest

CONCURRENCY = 8
CONFIG = "configs/sage_rt/toyland.py:smoke"


def play(messages):
    """Toyland's generator; what it draws follows from the conversation alone."""
    said = tuple(Message(one["role"], one["content"]) for one in messages)
    return toymodels.generator(Request(digest(messages), said))


def generate(server, folder):
    about = {"kind": "http", "url": server.url, "model": "toy", "concurrency": CONCURRENCY}
    flags = [f"--config.generator.{name}={value}" for name, value in about.items()]
    words = [sys.executable, "-m", "experiments.sage_rt.generate", f"--workdir={folder}"]
    return subprocess.Popen(
        [*words, f"--config={CONFIG}", *flags],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def to_the_end(server, folder):
    process = generate(server, folder)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors.decode()


def kill_after(process, server, requests, seconds):
    """Kill once so many requests more have come, and a little later; False if the run ended before."""
    target = len(server.log) + requests
    while len(server.log) < target and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


@pytest.fixture(scope="module")
def model():
    """One server for all: tasks' ids hold its address."""
    with server_in_a_thread(play=play) as server:
        yield server


@pytest.fixture
def server(model, whole):
    """With an empty log."""
    model.log.clear()
    return model


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The files of a run that was left alone, its counts, and how many requests it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    to_the_end(model, folder)
    assert len({seen.digest for seen in model.log}) == len(model.log)
    return shards(folder), json.loads((folder / "manifest.json").read_text())["counts"], len(model.log)


def check(server, folder, whole, kills, seed):
    """Kills of a seeded run that hit, and its requests."""
    files, counts, n = whole
    draw, hits = random.Random(seed), 0
    for _ in range(kills):  # so that all of them come before the end, on a fast machine too
        process = generate(server, folder)
        hits += kill_after(process, server, draw.randrange(n // (2 * kills)), draw.random() * 0.3 / kills)
    to_the_end(server, folder)
    requests = len(server.log)
    assert shards(folder) == files
    assert json.loads((folder / "manifest.json").read_text())["counts"] == counts
    assert n <= requests <= n + kills * CONCURRENCY
    return hits, requests


def test_three_kills(server, tmp_path, whole):
    assert check(server, tmp_path, whole, 3, seed=1)[0] == 3
    assert whole[2] == 279 * 6


@pytest.mark.slow
def test_twenty_kills(server, tmp_path, whole):
    hits, requests = check(server, tmp_path, whole, 20, seed=2)
    print(f"{hits} kills, {requests} requests, {whole[2]} without kills")
    assert hits == 20


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_programs_share_a_folder(server, tmp_path, whole, killed):
    """Every request is made once; one that is killed leaves its part to the other."""
    files, _, n = whole
    first, second = (generate(server, tmp_path) for _ in range(2))
    if killed:
        kill_after(first, server, n // 2, 0.0)
    errors = [one.communicate(timeout=120)[1].decode() for one in (second, *([] if killed else [first]))]
    assert (second.returncode, killed or first.returncode == 0) == (0, True), errors
    assert n <= len(server.log) <= n + killed * CONCURRENCY
    assert shards(tmp_path) == files
