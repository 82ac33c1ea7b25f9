"""Denoising diffusion GANs: who learns in a step, resuming, devices, and the program end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from launching import launch

from configs.ddgan.gaussians25 import get_config
from diffax.data import MixtureStream
from diffax.io import CheckpointStore
from diffax.training import TrainState, ema, init_net, make_mesh, train
from experiments.ddgan import experiment, method
from experiments.registry import make_experiment

CONFIG = get_config("smoke")
STILL = optax.set_to_zero()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def step_with(generator, discriminator, **changes):
    """The state before and after one step under the given optimisers."""
    parts = make_experiment(CONFIG)
    state = jax.jit(parts.init)(jax.random.key(0))
    optimizers = {"generator": generator, "discriminator": discriminator}
    averages = {"slow": ema.constant(0.9)}
    nets = {
        name: init_net(state.nets[name].params, optimizers[name], averages if name == "generator" else {})
        for name in optimizers
    }
    state = TrainState.create(jax.random.key(1), nets)
    made = experiment.make_method(CONFIG)._replace(**changes)
    batch = next(parts.data(0, 1))
    return state, *jax.jit(method.make_train_step(made, optimizers, averages))(state, batch)


class TestIsolation:
    def test_a_step_of_the_discriminator_leaves_the_generator_as_it_was(self):
        before, after, _ = step_with(STILL, optax.sgd(0.1))
        assert same(before.nets["generator"].params, after.nets["generator"].params)
        assert not same(before.nets["discriminator"].params, after.nets["discriminator"].params)

    def test_a_step_of_the_generator_leaves_the_discriminator_as_it_was(self):
        before, after, _ = step_with(optax.sgd(0.1), STILL)
        assert same(before.nets["discriminator"].params, after.nets["discriminator"].params)
        assert not same(before.nets["generator"].params, after.nets["generator"].params)

    def test_the_baseline_has_no_discriminator(self):
        before, after, metrics = step_with(optax.sgd(0.1), optax.sgd(0.1), objective="l2")
        assert same(before.nets["discriminator"].params, after.nets["discriminator"].params)
        assert "d_loss" not in metrics

    def test_the_generator_alone_is_averaged(self):
        before, after, _ = step_with(optax.sgd(0.1), optax.sgd(0.1))
        old, new = before.nets["generator"].params, after.nets["generator"]
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old, new.params)
        for a, b in zip(jax.tree.leaves(new.ema["slow"]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert dict(after.nets["discriminator"].ema) == {}


def run(steps, mesh=None, store=None):
    parts = make_experiment(CONFIG)
    init = lambda: parts.init(jax.random.key(0))  # noqa: E731
    return train(
        init, parts.train_step, parts.data(0, 1), num_steps=steps, log_every=5, mesh=mesh, checkpoints=store
    )


def test_resuming_is_exact_and_devices_do_not_matter(tmp_path):
    whole = run(12)
    with CheckpointStore(tmp_path) as store:
        run(5, store=store)
        resumed = run(12, store=store)
    assert same(whole.nets, resumed.nets)
    spread = run(12, mesh=make_mesh(4))
    for a, b in zip(jax.tree.leaves(whole.nets), jax.tree.leaves(spread.nets), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_discriminator_and_generator_see_different_draws_and_every_step():
    made = experiment.make_method(CONFIG)
    x0 = jnp.zeros((4000, 2))
    first, second = (method.draw(made, jax.random.key(i), x0) for i in range(2))
    assert not np.array_equal(first.x_t, second.x_t)
    assert not np.array_equal(first.cond["z"], second.cond["z"])
    times, counts = np.unique(np.asarray(first.t), return_counts=True)
    np.testing.assert_allclose(times, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)
    np.testing.assert_allclose(first.t - first.s, 0.25, atol=1e-6)
    np.testing.assert_array_equal(first.x_s[first.s == 0.0], 0.0)  # the first step starts at clean data


def test_the_stream_is_shared_and_resumes():
    mixture = experiment.make_mixture(CONFIG)
    whole = MixtureStream(mixture, 8, seed=3)
    parts = [MixtureStream(mixture, 4, seed=3, shard_index=i, shard_count=2) for i in range(2)]
    for _ in range(3):
        joined = np.concatenate([next(part)["x"] for part in parts])
        np.testing.assert_array_equal(next(whole)["x"], joined)
    state = whole.get_state()
    assert state["step"] == 3
    expected = next(whole)["x"]
    again = MixtureStream(mixture, 8, seed=3)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["x"], expected)
    with pytest.raises(ValueError, match="seed"):
        MixtureStream(mixture, 8, seed=4).set_state(state)


def test_the_program_end_to_end(tmp_path):
    config = "configs/ddgan/gaussians25.py:smoke"
    for mode in ("train", "eval", "sample"):
        done = launch(tmp_path / "w", config=config, mode=mode)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in result["figures"]}
    keys = {"modes", "high_quality", "kl", "tv", "nfe", "seconds_per_100", "n"}
    assert keys <= set(figures)
    assert figures["nfe"] == 4
    assert figures["n"] == 500
    assert figures["real/high_quality"] > 0.97
    assert figures["mean_oracle/high_quality"] < 0.15
    assert (tmp_path / "w" / "samples-path.png").stat().st_size > 5000
    assert np.load(tmp_path / "w" / "samples.npz")["x"].shape == (100, 2)
