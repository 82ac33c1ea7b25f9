"""Worker processes: the same batches, errors that arrive whole, and no process left behind."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffax.data import ArraySource, horizontal_flip, open_source, pipeline

_ROOT = Path(__file__).parents[2]


def _source(n):
    image = np.zeros((n, 2, 3, 1), np.uint8)
    image[:, 0, 0, 0] = np.arange(n) % 256
    return ArraySource(image, np.arange(n))


def _children():
    return multiprocessing.active_children()


def test_the_batches_are_the_same_for_any_number_of_processes():
    n = 1031  # more than the size from which grain shuffles
    options = {"augment": horizontal_flip(), "shard_index": 1, "shard_count": 2}

    def make(**reading):
        return pipeline(_source(n), n // 8, 3, **options, **reading)

    plain = make()
    expected = [next(plain) for _ in range(12)]  # 3 steps make an epoch
    with make(workers=2, threads=1) as pipe:
        actual = [next(pipe) for _ in range(5)]
        assert len(_children()) == 2
        state = pipe.get_state()
        actual.append(next(pipe))
        pipe.set_state(state)  # to within an epoch, backwards
        np.testing.assert_array_equal(next(pipe)["image"], actual[-1]["image"])
    assert not _children()
    with make(workers=1) as pipe:
        pipe.set_state(state | {"step": 6})
        actual += [next(pipe) for _ in range(6)]
        assert pipe.get_state()["step"] == 12
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_array_equal(a["image"], b["image"])
    with pytest.raises(ValueError, match="pipeline: got 'closed'"):
        next(pipe)


def test_one_pass_ends_and_its_processes_too():
    def labels(workers):
        pipe = pipeline(_source(23), 4, 3, repeat=False, drop_remainder=False, workers=workers)
        return pipe, [batch["label"].tolist() for batch in pipe]

    pipe, seen = labels(2)
    assert seen == labels(0)[1]
    assert sorted(chain(*seen)) == list(range(23))
    assert not _children()
    with pytest.raises(StopIteration):
        next(pipe)


def test_an_unreadable_file_is_named_in_the_parent_and_not_skipped(tmp_path):
    for i in range(6):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"nonsense")
    pipe = pipeline(open_source(tmp_path, "all"), 1, 0, shuffle=False, workers=1)
    assert [next(pipe)["image"][0, 0, 0, 0].round(4) for _ in range(3)] == [-1, -0.9922, -0.9843]
    with pytest.raises(ValueError, match=r"3\.png: got .*, allowed: a whole PNG"):
        next(pipe)
    assert not _children()
    assert pipe.get_state()["step"] == 3
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "3.png")  # mended: the same batch again
    assert next(pipe)["image"].max() == 1
    pipe.close()


_PROGRAM = """
import multiprocessing, time
from absl import app, flags
import numpy as np
from diffax.data import ArraySource, pipeline

KEPT = []
_SECONDS = flags.DEFINE_integer("seconds", None, "how long to stay", required=True)


def main(argv):
    source = ArraySource(np.zeros((40, 64, 64, 3), np.uint8), np.arange(40))
    pipe = pipeline(source, 4, 0, workers=1)
    KEPT.extend(next(pipe) for _ in range(12))
    print("pids:", *[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(_SECONDS.value)
    KEPT.append(pipe)  # neither closed nor deleted


if __name__ == "__main__":
    app.run(main)
"""


def _launch(tmp_path, seconds):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "main.py").write_text(_PROGRAM)
    command = [sys.executable, "-m", "package.main", f"--seconds={seconds}"]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)


def _alive(pid):
    """A zombie, which waits for an init that may not come, is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_of_absl_flags_ends_quietly_without_close(tmp_path):
    program = _launch(tmp_path, 0)
    out, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, "")
    assert re.match(r"pids: \d+\n", out)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see other processes")
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path):
    program = _launch(tmp_path, 60)
    pids = [int(word) for word in program.stdout.readline().split()[1:]]
    assert len(pids) == 1
    assert _alive(pids[0])
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, pids))
