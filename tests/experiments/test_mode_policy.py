"""Policies that denoise actions: the navigation suite, losses, answers, and a run through the launcher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policies import load
from scipy.stats import binomtest

from diffax.evaluation import wilson_interval
from diffax.losses import denoising_loss
from diffax.processes import EDM
from experiments.mode_policy import experiment, method, navigation, navigation_figures

TASKS = jnp.tile(jnp.arange(navigation.TASKS), 4)


def drive(side, execute=1, spread=0.0, horizon=1):
    """Experts whose side is given, answering with so many equal actions."""

    def act(keys, position, task):
        return jnp.repeat(navigation.expert(position, task, side)[:, None], horizon, axis=1)

    return jax.jit(lambda key: navigation.roll_out(act, key, TASKS, execute, spread))(jax.random.key(3))


# -- the suite ----------------------------------------------------------------------------------------------


def test_experts_arrive_on_their_side():
    side = jnp.where(jnp.arange(len(TASKS)) % 3 == 0, 1.0, -1.0)
    ran = drive(side, spread=0.05)
    assert bool(ran.success.all())
    assert not bool(ran.hit.any())
    np.testing.assert_array_equal(ran.left, side > 0)
    lengths = np.linalg.norm(np.diff(ran.paths, axis=1), axis=-1)
    assert lengths.max() <= navigation.SPEED * (1 + 1e-5)
    assert np.linalg.norm(ran.paths, axis=-1).min() > navigation.RADIUS


def test_the_mean_of_both_ways_hits_the_disc():
    """What a regression answers from a start exactly opposite: success alone would not show it elsewhere."""
    ran = drive(jnp.zeros(len(TASKS)))
    assert bool(ran.hit.all())
    assert not bool(ran.success.any())


def test_planted_rollouts_are_measured():
    both = jnp.where(jnp.arange(len(TASKS)) // 8 % 2 == 0, 1.0, -1.0)
    found = navigation_figures.measure(drive(both))
    assert found == {"success": 1.0, "worst_task": 1.0, "hit": 0.0, "tasks_both_ways": 8.0}
    assert navigation_figures.measure(drive(jnp.ones(len(TASKS))))["tasks_both_ways"] == 0
    none = navigation_figures.measure(drive(jnp.zeros(len(TASKS))))
    assert (none["success"], none["hit"], none["tasks_both_ways"]) == (0, 1, 0)


def test_chunks_are_answered_once_each():
    asked = []

    def act(keys, position, task):
        jax.debug.callback(lambda: asked.append(1))
        return jnp.zeros((len(task), 5, 2))

    jax.block_until_ready(navigation.roll_out(act, jax.random.key(0), TASKS, 5))
    jax.effects_barrier()
    assert len(asked) == -(-navigation.STEPS // 5)
    with pytest.raises(ValueError, match="execute: got 6, allowed: 1 to 5"):
        navigation.roll_out(act, jax.random.key(0), TASKS, 6)


def test_demonstrations_are_complete_and_repeatable():
    first, again, other = (navigation.demonstrations(seed, 3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.steps["action"], again.steps["action"])
    assert first.steps["state"].shape != other.steps["state"].shape or not np.array_equal(
        first.steps["state"], other.steps["state"]
    )
    assert len(first.ends) == 24
    last = first.steps["state"][first.ends - 1] + navigation.SPEED * first.steps["action"][first.ends - 1]
    goals = np.asarray(navigation.goal(jnp.asarray(first.task)))
    assert np.linalg.norm(last - goals, axis=1).max() < navigation.REACH + 1e-5


# -- losses and intervals -----------------------------------------------------------------------------------


def test_masked_actions_do_not_count():
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 2)), jnp.float32)
    mask = jnp.asarray([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1.0]])[..., None]

    def loss(x0, mask=mask):
        return denoising_loss(jax.random.key(0), lambda x, t, c: 0 * x, EDM(), x0, mask=mask).x0_error

    expected = [np.mean(x0[0, :2] ** 2), np.mean(x0[1, :1] ** 2), np.mean(x0[2] ** 2)]
    np.testing.assert_allclose(loss(x0), expected, rtol=1e-6)
    gradient = jax.grad(lambda x0: loss(x0).sum())(x0)
    np.testing.assert_array_equal(np.asarray(gradient != 0).all(axis=2), mask[..., 0] > 0)
    np.testing.assert_allclose(loss(x0, jnp.ones_like(mask)), loss(x0, None), rtol=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (7, 10), (10, 10), (480, 512)])
def test_wilson_intervals(successes, n):
    peer = binomtest(successes, n).proportion_ci(method="wilson")
    found = wilson_interval(successes, n)
    np.testing.assert_allclose(found, [successes / n, peer.low, peer.high], atol=1e-12)
    with pytest.raises(ValueError, match="successes: got 11, allowed: 0 to n = 10"):
        wilson_interval(11, 10)


# -- policies -----------------------------------------------------------------------------------------------


def test_baselines_have_the_sizes_they_are_named_for():
    model = load("demo").model
    fields = {name: method.network_fields(load("demo"), name) for name in ("model", *method.BASELINES)}
    assert fields["dense"]["mlp_ratio"] == fields["regression"]["mlp_ratio"] == model.top_k * model.mlp_ratio
    assert fields["wide"]["mlp_ratio"] == model.experts * model.mlp_ratio
    assert fields["dense"]["experts"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": "words"}, "config.goal: got 'words'"),
        ({"suite": "kitchen"}, "config.suite: got 'kitchen'"),
        ({"baselines": ("big",)}, "config.baselines: got 'big'"),
        ({"normaliser.action": "std"}, "config.normaliser.action: got 'std'"),
        ({"data.horizon": 0}, "config.data.horizon: got 0"),
    ],
)
def test_configurations_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        experiment.make_experiment(load(**change))


def test_noise_levels_of_sampling_are_the_published_ones():
    """Evenly in log sigma from 80 to 0.001 in ten, then 0."""
    config = load("demo")
    recipe = experiment.rebuild(config, experiment.open_suite(config).facts)["model"]
    found = np.asarray(method.make_grid(config, recipe))
    assert found.shape == (11,)
    np.testing.assert_allclose(found[:-1], 80 * (0.001 / 80) ** (np.arange(10) / 9), rtol=1e-5)
    assert found[-1] == 0
