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


def check(folder, kills, seed):
    """Of a seeded run: kills that hit, requests of it, requests of one that was left alone."""
    draw, hits = random.Random(seed), 0
    with server_in_a_thread(play=play) as server:
        to_the_end(server, folder / "whole")
        n = len(server.log)
        assert len({seen.digest for seen in server.log}) == n
        server.log.clear()
        for _ in range(kills):
            process = generate(server, folder / "killed")
            hits += kill_after(process, server, draw.randrange(n // (kills + 1)), draw.random() * 0.05)
        to_the_end(server, folder / "killed")
        requests = len(server.log)
    assert shards(folder / "killed") == shards(folder / "whole")
    queries = [json.loads((folder / name / "manifest.json").read_text()) for name in ("killed", "whole")]
    assert queries[0]["counts"] == queries[1]["counts"]
    assert n <= requests <= n + kills * CONCURRENCY
    return hits, requests, n


def test_three_kills(tmp_path):
    hits, _, n = check(tmp_path, 3, seed=1)
    assert (hits, n) == (3, 279 * 6)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    hits, requests, n = check(tmp_path, 20, seed=2)
    print(f"{hits} kills, {requests} requests, {n} without kills")
    assert hits >= 18
