"""Checkpoints, metrics and pictures: whole or absent, never half."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from diffax.io import (
    CheckpointError,
    CheckpointStore,
    MetricsWriter,
    read_metrics,
    save_png,
    tile,
    to_uint8,
    write_atomically,
    write_json,
)
from diffax.training import TrainState, ema, init_net


def state_at(step, fill=1.0):
    optimizer = optax.adam(1e-3)
    params = {"dense": {"kernel": jnp.full((300, 7), fill), "bias": jnp.arange(7.0)}}
    net = init_net(params, optimizer, {"0.9": ema.constant(0.9)})
    return TrainState.create(jax.random.key(5), {"model": net}).replace(step=jnp.asarray(step))


def assert_same(a, b):
    def raw(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), a, b)


def array_files(folder, step):
    """The files that hold numbers, largest first."""
    files = [path for path in (folder / str(step) / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def test_round_trip_and_keep(tmp_path):
    with CheckpointStore(tmp_path, keep=2) as store:
        assert store.restore(state_at(0)) is None
        for step in (1, 2, 3):
            store.save(state_at(step, fill=float(step)), {"step": step})
        assert store.steps() == [2, 3]
    with CheckpointStore(tmp_path) as store:
        state, data = store.restore(state_at(0))
    assert_same(state, state_at(3, fill=3.0))
    assert data == {"step": 3}
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize(("best", "step"), [("valid_loss", 2), ("valid_loss:min", 2), ("valid_loss:max", 3)])
def test_the_best_and_every_so_many_are_kept_beside_the_newest(tmp_path, best, step):
    losses = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.4, 5: float("nan"), 6: 0.3, 7: 0.2}
    with CheckpointStore(tmp_path, keep=1, keep_every=4, best=best) as store:
        for at, loss in losses.items():
            store.save(state_at(at), {"step": at}, {"valid_loss": loss, "loss": 0.0})
        store.wait()
        assert store.steps() == sorted({step, 4, 7})
        assert store.best_step() == step
    with CheckpointStore(tmp_path, best=best) as store:  # a later program finds it too
        assert store.best_step() == step
        assert int(store.restore(state_at(0), step)[0].step) == step
    with pytest.raises(ValueError, match="best"):
        CheckpointStore(tmp_path, best="loss:least")


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip", "other_arrays", "no_meta"])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, damage, caplog):
    with CheckpointStore(tmp_path) as store:
        store.save(state_at(1, fill=1.0), {"step": 1})
        store.save(state_at(2, fill=2.0), {"step": 2})
    files = array_files(tmp_path, 2)
    if damage == "truncate":
        for path in files:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "delete":
        for path in files:
            path.unlink()
    elif damage == "flip":
        content = bytearray(files[0].read_bytes())
        content[len(content) // 2] ^= 1
        files[0].write_bytes(bytes(content))
    elif damage == "other_arrays":  # readable, but not what was saved
        path = tmp_path / "2" / "meta" / "metadata"
        path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "0" * 64}))
    else:
        for path in (tmp_path / "2" / "meta").rglob("*"):
            path.unlink()
    with CheckpointStore(tmp_path) as store, caplog.at_level("WARNING", logger="diffax"):
        state, data = store.restore(state_at(0))
    assert_same(state, state_at(1, fill=1.0))
    assert data == {"step": 1}
    assert "checkpoint 2" in caplog.text
    assert "not whole" in caplog.text


def test_a_run_that_fell_back_saves_the_lost_step_again(tmp_path):
    folder = tmp_path / "checkpoints"
    with CheckpointStore(folder) as store:
        store.save(state_at(1, fill=1.0), {"step": 1})
        store.save(state_at(2, fill=2.0), {"step": 2})
    for path in array_files(folder, 2):
        path.write_bytes(b"")
    with CheckpointStore(folder) as store:
        store.restore(state_at(0))
        assert (folder / "2").exists()  # reading moves nothing
        store.save(state_at(2, fill=3.0), {"step": 2})
        assert store.steps() == [1, 2]
    with CheckpointStore(folder) as store:
        state, _ = store.restore(state_at(0))
    assert_same(state, state_at(2, fill=3.0))
    assert [path.name for path in (tmp_path / "checkpoints-damaged").iterdir()] == ["2"]


def test_no_whole_checkpoint_is_an_error_not_a_new_start(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(state_at(1), {})
    for path in array_files(tmp_path, 1):
        path.write_bytes(b"")
    with CheckpointStore(tmp_path) as store, pytest.raises(CheckpointError, match="none of which"):
        store.restore(state_at(0))


def test_another_networks_checkpoint_is_refused(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(state_at(1), {})
    other = state_at(0)
    net = other.nets["model"].replace(params={"dense": {"kernel": jnp.zeros((4, 4))}})
    with CheckpointStore(tmp_path) as store, pytest.raises(CheckpointError):
        store.restore(other.replace(nets={"model": net}))
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [1]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_metrics_survive_a_kill(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "lo')  # cut short
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.resume(20)
    writer.write(30, {"loss": 0.5, "extra": 2.0})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 30]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["step,loss,extra", "10,0.1,", "20,0.05,", "30,0.5,2.0"]


def test_tensorboard_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path)
    writer.write(3, {"loss": 0.25})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.25)]


def test_pictures(tmp_path):
    images = np.full((3, 2, 2, 1), -1.0, np.float32)
    images[1] = 1.0
    sheet = tile(images, columns=2, gap=1)
    assert sheet.shape == (7, 7, 1)
    assert sheet[1, 1, 0] == -1.0  # the first image
    assert sheet[1, 4, 0] == 1.0  # the second
    assert sheet[5, 5, 0] == 1.0  # an empty place is white
    save_png(tmp_path / "a.png", tile(images, columns=2, zoom=3))
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (21, 21)
    assert picture[4, 4] == 0
    np.testing.assert_array_equal(to_uint8(np.array([-2.0, -1.0, 0.0, 1.0])), [0, 0, 128, 255])
    with pytest.raises(ValueError, match="image"):
        save_png(tmp_path / "b.png", np.zeros((2, 2, 2)))
    assert not (tmp_path / "b.png").exists()
