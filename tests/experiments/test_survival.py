"""A run loses nothing when its machine dies: kill -9, SIGTERM, a full disk, a loss that is not finite."""

import json
import random
import re
import signal
import socket
import time

import numpy as np
import pytest
from launching import digests, launch, start

STEPS = ("--config.train.num_steps=48", "--config.train.checkpoint_every=2", "--config.train.log_every=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A whole run, and how long it took."""
    workdir = tmp_path_factory.mktemp("whole") / "w"
    begun = time.monotonic()
    done = launch(workdir, *STEPS)
    assert done.returncode == 0, done.stderr
    return workdir, time.monotonic() - begun


def wait_for_checkpoint(workdir, step, process):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and max(digests(workdir), default=0) < step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def resumed_from(errors):
    found = re.search(r"resuming from the checkpoint at step (\d+)", errors)
    return int(found.group(1)) if found else 0


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_random_instants_changes_nothing(undisturbed, tmp_path, kills):
    """Half of the kills anywhere in a run, the other half while steps and checkpoints fly."""
    whole, seconds = undisturbed
    rng, workdir = random.Random(kills), tmp_path / "w"
    newest = 0
    for kill in range(kills):
        process = start(workdir, *STEPS)
        if kill % 2:
            wait_for_checkpoint(workdir, min(newest + 2, 46), process)
            time.sleep(rng.uniform(0.0, 0.3))
        else:
            time.sleep(rng.uniform(0.0, 0.8 * seconds))
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1]
        assert "not whole" not in errors
        if "resuming" in errors:
            assert resumed_from(errors) == newest
        newest = max(digests(workdir), default=0)
    done = launch(workdir, *STEPS)
    assert done.returncode == 0, done.stderr
    assert "not whole" not in done.stderr
    assert resumed_from(done.stderr) == newest
    assert digests(workdir)[48] == digests(whole)[48]
    assert (workdir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_sigterm_saves_and_ends_with_status_0(undisturbed, tmp_path):
    workdir = tmp_path / "w"
    process = start(workdir, *STEPS)
    wait_for_checkpoint(workdir, 2, process)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    assert time.monotonic() - begun < 30
    stopped = re.search(r"stopped at step (\d+) of 48, saved", errors)
    assert stopped, errors
    assert max(digests(workdir)) == int(stopped.group(1))
    done = launch(workdir, *STEPS)
    assert resumed_from(done.stderr) == int(stopped.group(1))
    assert digests(workdir)[48] == digests(undisturbed[0])[48]


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    many = ("--config.train.num_steps=4000", "--config.train.log_every=100", "--config.cpu_devices=2")
    flags = [*many, "--config.train.checkpoint_every=5", "--multihost", f"--coordinator={address}"]
    workdir = tmp_path / "w"
    running = [start(workdir, *flags, "--process_count=2", f"--process_id={i}") for i in range(2)]
    try:
        wait_for_checkpoint(workdir, 5, running[0])
        running[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=100)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], errors
    assert f"stopped at step {max(digests(workdir))} of 4000" in errors[0]
    assert "stopped" not in errors[1]  # the first process speaks for all


@pytest.mark.slow
def test_a_full_disk_is_named_and_older_checkpoints_stay(undisturbed, tmp_path):
    """A limit on the size of files stands for the disk: writing fails in the same place."""
    workdir = tmp_path / "w"
    process = start(workdir, *STEPS)
    wait_for_checkpoint(workdir, 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = digests(workdir)

    limited = ("bash", "-c", 'ulimit -f 20 && exec "$@"', "limited")  # 20 KiB a file
    process = start(workdir, *STEPS, prefix=limited)
    errors = process.communicate(timeout=120)[1]
    # storage's own threads may be in the middle of a line of their traceback when ours comes
    lines = [line.strip() for line in errors.splitlines() if line.strip().startswith("error: ")]
    assert process.returncode == 1, errors
    assert len(lines) == 1, errors
    assert "checkpoint: could not be written" in lines[0]
    assert str(max(before)) in lines[0]
    assert digests(workdir) == before
    done = launch(workdir, *STEPS)
    assert done.returncode == 0, done.stderr
    assert resumed_from(done.stderr) == max(before)
    assert digests(workdir)[48] == digests(undisturbed[0])[48]


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_saved(tmp_path):
    """A learning rate that overflows float32 after a few steps."""
    flags = [*STEPS, "--config.train.optimizer.learning_rate=1e30", "--config.train.checkpoint_every=40"]
    done = launch(tmp_path / "w", *flags)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    step = int(re.search(r"at training step (\d+)", line).group(1))
    assert f"saved as checkpoint {step - 1}" in line
    assert f"fold_in(state.key, {step - 1}) = [" in line
    assert max(digests(tmp_path / "w")) == step - 1


@pytest.mark.slow
def test_the_best_checkpoint_by_a_held_out_loss_is_kept_and_can_be_asked_for(tmp_path):
    flags = [
        "--config.train.num_steps=12", "--config.train.checkpoint_every=2", "--config.train.keep=1",
        "--config.train.keep_every=6", "--config.train.validate_n=64", "--config.train.best=valid_loss:max",
    ]  # fmt: skip
    workdir = tmp_path / "w"
    done = launch(workdir, *flags)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["valid_loss"] for row in rows if "valid_loss" in row}
    assert sorted(losses) == [2, 4, 6, 8, 10, 12]
    best = max(losses, key=losses.get)
    assert sorted(digests(workdir)) == sorted({best, 6, 12})
    done = launch(workdir, *flags, "--checkpoint=best", "--config.sample.n=3", mode="sample")
    assert done.returncode == 0, done.stderr
    about = json.loads(str(np.load(workdir / "samples-ddim.npz")["identity"]))
    assert about["step"] == best
    done = launch(workdir, *flags, "--checkpoint=5", mode="sample")
    assert done.returncode == 2
    assert "checkpoint: got '5'" in done.stderr


@pytest.mark.slow
def test_sampling_is_completed_after_a_kill_and_repeated_by_none(tmp_path):
    """Files that are there stay as they are; the same samples whatever was broken off."""
    workdir = tmp_path / "w"
    assert launch(workdir).returncode == 0
    flags = ["--config.sample.n=50", "--config.sample.batch_size=10", "--config.sample.per_file=20"]
    done = launch(workdir, *flags, mode="sample")
    assert done.returncode == 0, done.stderr
    names = [f"samples-ddim-{i:05d}-of-00003.npz" for i in range(3)]
    whole = [np.load(workdir / name)["image"] for name in names]
    assert [len(part) for part in whole] == [20, 20, 10]
    kept = (workdir / names[0]).stat().st_mtime_ns
    (workdir / names[1]).unlink()
    done = launch(workdir, *flags, "--config.sample.png=True", mode="sample")
    assert done.returncode == 0, done.stderr
    assert (workdir / names[0]).stat().st_mtime_ns == kept
    np.testing.assert_array_equal(np.load(workdir / names[1])["image"], whole[1])
    assert len(list((workdir / "samples-ddim").glob("*.png"))) == 50


def test_bad_cluster_flags_are_named(tmp_path):
    for flags, field in (
        (["--multihost", "--coordinator=here:1"], "multihost"),
        (["--multihost", "--coordinator=here", "--process_count=2", "--process_id=0"], "coordinator"),
        (["--multihost", "--coordinator=a:1", "--process_count=2", "--process_id=2"], "process_id"),
    ):
        done = launch(tmp_path / "w", *flags)
        assert done.returncode == 2, done.stderr
        assert field in done.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_trace_is_written_where_it_is_asked_for(tmp_path):
    done = launch(tmp_path / "w", "--profile", "--config.train.num_steps=10")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "w" / "profile").rglob("*.xplane.pb"))
