"""Several processes are one run: the same losses, parameters and samples, and checkpoints for any number."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": "",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "JAX_COMPILATION_CACHE_DIR": os.environ.get(
        "DIFFAX_TEST_CACHE", str(Path(tempfile.gettempdir()) / "diffax-jax-cache")
    ),
}
STEPS = 8


def free_address():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def run(out, processes, mesh, steps=STEPS):
    """Train on ``processes`` x ``8 / processes`` devices; what process 0 wrote."""
    script = str(ROOT / "tests" / "sharding" / "host_worker.py")
    start = [sys.executable, script, str(out), str(steps), str(8 // processes), mesh]
    address = free_address()
    joined = [[address, str(processes), str(i)] for i in range(processes)] if processes > 1 else [[]]
    running = [
        subprocess.Popen(
            start + rest,
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rest in joined
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    return dict(np.load(out / f"run-{steps}.npz"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with eight devices."""
    return run(tmp_path_factory.mktemp("alone"), 1, "4x2x1")


def check(found, expected):
    np.testing.assert_array_equal(found["losses"][:, 0], expected["losses"][-len(found["losses"]) :, 0])
    np.testing.assert_allclose(found["losses"], expected["losses"][-len(found["losses"]) :], rtol=1e-5)
    np.testing.assert_allclose(found["params"], expected["params"], atol=1e-5)
    np.testing.assert_allclose(found["images"], expected["images"], atol=1e-4)


@pytest.mark.parametrize("mesh", [pytest.param("4x2x1", marks=pytest.mark.slow), "2x2x2"])
def test_two_processes_of_four_devices_are_one_of_eight(alone, tmp_path, mesh):
    check(run(tmp_path, 2, mesh), alone)


@pytest.mark.slow
def test_four_processes_save_and_one_goes_on(alone, tmp_path):
    run(tmp_path, 4, "2x4x1", STEPS // 2)
    check(run(tmp_path, 1, "8x1x1"), alone)


@pytest.mark.slow
def test_one_process_saves_and_four_go_on(alone, tmp_path):
    run(tmp_path, 1, "4x2x1", STEPS // 2)
    check(run(tmp_path, 4, "2x4x1"), alone)
