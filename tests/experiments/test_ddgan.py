"""Denoising diffusion GANs: who learns in a step, resuming, devices, and the program end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from launching import launch
from stepping import run, same

from configs.ddgan.gaussians25 import get_config
from diffax.data import MixtureStream
from diffax.io import CheckpointStore, load_sampler
from diffax.training import TrainState, ema, init_net, make_mesh
from experiments.ddgan import experiment, method, points, sampling
from experiments.ddgan.networks import make_networks
from experiments.registry import make_experiment

CONFIG = get_config("smoke")
STILL = optax.set_to_zero()


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
    made = experiment.rebuild(CONFIG)[0]._replace(**changes)
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


class TestAblations:
    """Each takes a step of both networks, and is what it says."""

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"prediction": "x_s"}, marks=pytest.mark.slow),
            pytest.param({"prediction": "eps"}, marks=pytest.mark.slow),
            pytest.param({"objective": "augmented"}, marks=pytest.mark.slow),
            pytest.param({"latent": 0}, marks=pytest.mark.slow),
            {"steps": 1},
        ],
        ids=str,
    )
    def test_both_networks_learn_and_samples_are_finite(self, changes):
        config = get_config("smoke")
        config.update(changes)
        parts = make_experiment(config)
        before = jax.jit(parts.init)(jax.random.key(0))
        after, metrics = jax.jit(parts.train_step)(before, next(parts.data(0, 1)))
        assert set(metrics) >= {"d_loss", "g_loss", "loss"}
        for name in ("generator", "discriminator"):
            assert not same(before.nets[name].params, after.nets[name].params)
        made, shape = experiment.rebuild(config)
        key, params = jax.random.key(1), after.nets["generator"].params
        paths = sampling.generate(made, shape, params, key, 10, 10, return_path=True)
        calls = 1 if changes.get("objective") == "augmented" else config.steps
        assert paths.shape == (10, calls + 1, 2)
        assert np.isfinite(paths).all()

    def test_direct_prediction_is_the_next_point_itself(self):
        made = experiment.rebuild(CONFIG)[0]._replace(direct=True, generate=lambda p, x, t, cond: 2.0 * x)
        drawn = method.draw(made, jax.random.key(0), jnp.ones((6, 2)))
        np.testing.assert_array_equal(method.predecessor(made, None, drawn), 2.0 * drawn.x_t)
        paths = sampling.generate(made, (2,), jnp.zeros(1), jax.random.key(1), 4, 4, return_path=True)
        np.testing.assert_allclose(paths[:, 1:], 2.0 * paths[:, :-1], rtol=1e-6)

    def test_a_generator_that_knows_the_noise_returns_the_data(self):
        """With eps = (x_t - alpha x0) / sigma for a fixed x0, the converted output is that x0."""
        config = get_config("smoke")
        config.prediction = "eps"
        networks = make_networks(config, (2,))
        process, x0 = method.chain(4), jnp.array([0.3, -0.8])
        t = jnp.array([0.25, 0.5, 0.75])
        x = jax.random.normal(jax.random.key(0), (3, 2))
        eps = (x - process.alpha(t)[:, None] * x0) / process.sigma(t)[:, None]
        params = jax.eval_shape(networks.init, jax.random.key(0))[0]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
        for row in range(3):
            constant = {**zeros, "out": {**zeros["out"], "bias": eps[row]}}
            z = {"z": jnp.zeros((1, config.latent))}
            found = networks.generate(constant, x[row : row + 1], t[row : row + 1], z)
            np.testing.assert_allclose(found[0], x0, atol=1e-5)

    def test_augmentation_noises_both_sides_alike_and_hides_x_t(self):
        made = experiment.rebuild(CONFIG)[0]._replace(objective="augmented")
        made = made._replace(generate=lambda p, x, t, cond: jnp.ones_like(x))
        drawn = method.draw(made, jax.random.key(0), jnp.ones((20_000, 2)))
        np.testing.assert_array_equal(drawn.x_t, 0.0)
        fake = method.predecessor(made, None, drawn)
        for s in (0.0, 0.25, 0.5, 0.75):  # the generator draws the data here: the two must have one law
            rows = np.asarray(drawn.s) == s
            np.testing.assert_allclose(fake[rows].mean(0), drawn.x_s[rows].mean(0), atol=0.07)
            np.testing.assert_allclose(fake[rows].std(0), drawn.x_s[rows].std(0), atol=0.05)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"prediction": "x_s", "objective": "l2"}, "prediction is 'x_s'"),
            ({"prediction": "v"}, "prediction"),
            ({"objective": "wgan"}, "objective"),
            ({"prediction": "eps", "bounded": True}, "bounded"),
            ({"generator": {"name": "NCSNpp", "width": 8}}, "generator"),
            ({"generator": {"depth": 3}}, "depth"),
        ],
    )
    def test_errors(self, changes, message):
        config = get_config("smoke")
        with config.unlocked():
            config.update(changes)
        with pytest.raises(ValueError, match=message):
            make_experiment(config)


def test_both_networks_have_their_own_rate():
    config = get_config("smoke")
    config.train.optimizer.schedule = "constant"
    config.train.discriminator_rate = 0.1
    updates = {}
    for name, optimizer in experiment.make_optimizers(config).items():
        params = jnp.zeros(1)
        updates[name], _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
    np.testing.assert_allclose(updates["generator"], -1e-3, rtol=1e-4)  # the first step of Adam is the rate
    np.testing.assert_allclose(updates["discriminator"], -0.1, rtol=1e-4)


@pytest.mark.slow
def test_resuming_is_exact_and_devices_do_not_matter(tmp_path):
    whole = run(CONFIG, 12)
    with CheckpointStore(tmp_path) as store:
        run(CONFIG, 5, store=store)
        resumed = run(CONFIG, 12, store=store)
    assert same(whole.nets, resumed.nets)
    spread = run(CONFIG, 12, mesh=make_mesh(4))
    for a, b in zip(jax.tree.leaves(whole.nets), jax.tree.leaves(spread.nets), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_discriminator_and_generator_see_different_draws_and_every_step():
    made = experiment.rebuild(CONFIG)[0]
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
    mixture = points.make_mixture(CONFIG)
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


@pytest.mark.slow
def test_the_program_end_to_end(tmp_path):
    config = "configs/ddgan/gaussians25.py:smoke"
    for mode in ("train", "eval", "sample", "export"):
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
    drawn = np.load(tmp_path / "w" / "samples.npz")["x"]
    assert drawn.shape == (100, 2)
    exported = load_sampler(tmp_path / "w" / "export" / "sampler.jaxexport").generate(np.arange(500))
    assert np.isfinite(exported).all()
    np.testing.assert_allclose(exported.std(0), drawn.std(0), rtol=0.3)  # the same law, of other seeds
