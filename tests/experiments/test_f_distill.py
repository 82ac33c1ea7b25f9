"""f-distill: who learns from what in a step, the student's calls, resuming, devices, and mistakes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stepping import run, same

from configs.f_distill.ring8 import get_config
from diffax.data import ring, sample_mixture
from diffax.io import CheckpointStore
from diffax.losses.divergences import DIVERGENCES, divergence
from diffax.models import MLP
from diffax.processes import EDM, VP
from diffax.training import TrainState, ema, init_net, make_mesh
from experiments.f_distill import experiment, method, networks, sampling
from experiments.f_distill.method import Critics
from experiments.registry import make_experiment

CONFIG = get_config("smoke")
# Compiling is most of what these tests cost; the least optimised code does for small networks.
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STILL = optax.set_to_zero()
RATES = {"student": optax.sgd(0.1), "fake": optax.sgd(0.1), "discriminator": optax.sgd(0.1)}


def config_with(**changes):
    config = get_config("smoke")
    config.start.steps, config.critic_steps = 5, 2
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


@pytest.fixture(scope="module")
def start():
    """A small run at step 0, its method, and one batch."""
    config = config_with()
    parts = make_experiment(config)
    state = jax.jit(parts.init)(jax.random.key(0))
    target, made = experiment.rebuild(config)
    batch = {"x": jnp.asarray(sample_mixture(ring(), jax.random.key(9), 60))}  # of 2 parts, or 5
    return state, target, made, batch


def step(start, optimizers, critic_steps=2, **changes):
    """The state before and after one step under the given optimisers."""
    state, _, made, batch = start
    averages = {"slow": ema.constant(0.9)}
    nets = {}
    for name, optimizer in optimizers.items():
        old = state.nets[name]
        nets[name] = init_net(old.params, optimizer, averages if name == "student" else {})
        nets[name] = nets[name].replace(mutable=old.mutable)
    state = TrainState.create(jax.random.key(1), nets, state.frozen)
    run = fast_jit(method.make_train_step(made._replace(**changes), optimizers, averages, critic_steps))
    return state, *run(state, batch)


class TestIsolation:
    @pytest.mark.parametrize("moving", ["student", "fake", "discriminator"])
    def test_only_the_network_whose_optimiser_moves_is_changed(self, start, moving):
        before, after, _ = step(start, {name: RATES[name] if name == moving else STILL for name in RATES})
        for name in RATES:
            assert same(before.nets[name].params, after.nets[name].params) == (name != moving), name
        assert same(before.frozen, after.frozen)

    @pytest.mark.slow
    def test_updates_are_counted(self, start):
        adam = dict.fromkeys(RATES, optax.adam(1e-3))
        _, after, _ = step(start, adam, critic_steps=5)
        counts = {name: int(net.opt_state[0].count) for name, net in after.nets.items()}
        assert counts == {"student": 1, "fake": 5, "discriminator": 5}

    def test_the_student_alone_is_averaged(self, start):
        before, after, _ = step(start, RATES)
        old, new = before.nets["student"].params, after.nets["student"]
        for a, b, c in zip(*(jax.tree.leaves(t) for t in (old, new.params, new.ema["slow"])), strict=True):
            np.testing.assert_allclose(c, 0.9 * a + 0.1 * b, atol=1e-6)
        assert after.nets["fake"].ema == {}

    def test_where_fake_and_teacher_agree_only_the_adversary_moves_the_student(self, start):
        state, _, made, batch = start
        params, d = state.frozen["teacher"], state.nets["discriminator"]
        loud = jax.tree.map(lambda leaf: leaf + 0.1, d.params)
        made = made._replace(teacher=made.score)  # the network itself, of which fake is a copy
        real = batch["x"][:32]

        def gradient(weight):
            about = made._replace(adversary=made.adversary._replace(weight=weight))
            loss = lambda p: method.student_objective(  # noqa: E731
                about, p, Critics(params, loud), params, jnp.ones(10), real, None, jax.random.key(0)
            )[0]
            return optax.global_norm(fast_jit(jax.grad(loss))(params))

        assert float(gradient(0.0)) == 0.0
        assert float(gradient(1.0)) > 1e-4


class TestFeatures:
    """Heads on the activations of the teacher, or of the fake score, which then learns from them too."""

    @pytest.fixture(scope="class")
    def made(self):
        process, model = EDM(t_min=0.02, t_max=5.0), MLP(width=8, blocks=1)
        config = config_with(gan__width=0)
        look = networks.make_look(model, lambda apply_fn, params: lambda x, t, c: apply_fn(params, x, t, c))
        target = experiment.rebuild(config)[0]._replace(teacher=look, score=look, process=process)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))["params"]
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
        return config, target, params

    def gradients(self, made, features, critic_weight, **changes):
        """Of the critics' objective, in both critics' parameters."""
        config, target, params = made
        about = {"features": features, "critic_weight": critic_weight, "gamma": 0.0, **changes}
        config.gan.update(about)
        init, discriminate = networks.make_discriminator(config, target)
        heads = init(jax.random.key(1), networks.features_of(config, target, params))
        heads = jax.tree.map(lambda leaf: leaf + 0.1, heads)  # no zeros
        method_ = networks.make_method(config, target, discriminate)
        x, real = jax.random.normal(jax.random.key(2), (2, 16, 2))
        loss = lambda critics: method.critics_objective(  # noqa: E731
            method_, critics, params, x, real, None, jax.random.key(3)
        )[0]
        return fast_jit(jax.grad(loss))(Critics(params, heads))

    def test_the_teachers_are_frozen_and_the_fake_scores_learn(self, made):
        alone = self.gradients(made, "teacher", 0.0)
        assert float(optax.global_norm(alone.discriminator)) == 0.0
        both = self.gradients(made, "teacher", 1.0)
        assert float(optax.global_norm(both.discriminator)) > 0.01
        for a, b in zip(*map(jax.tree.leaves, (alone.fake, both.fake)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        shared = self.gradients(made, "fake", 1.0)
        gap = jax.tree.map(jnp.subtract, shared.fake, alone.fake)
        assert float(optax.global_norm(gap)) > 0.01

    def test_penalties_change_the_heads_alone(self, made):
        plain = self.gradients(made, "teacher", 1.0, gamma=0.0)
        for kind in method.PENALTIES:
            found = self.gradients(made, "teacher", 1.0, gamma=1.0, penalty=kind)
            gap = jax.tree.map(jnp.subtract, found.discriminator, plain.discriminator)
            assert float(optax.global_norm(gap)) > 0.01
            for a, b in zip(*map(jax.tree.leaves, (found.fake, plain.fake)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("features", "logit"), [("teacher", 1.0), ("fake", -2.0)])
def test_the_student_is_judged_by_the_activations_that_the_discriminator_learned(start, features, logit):
    _, _, made, batch = start
    made = made._replace(
        teacher=lambda params, x, t, cond: (x, {"mark": jnp.ones((len(x), 1))}),
        score=lambda params, x, t, cond: (params * x, {"mark": -2 * jnp.ones((len(x), 1))}),
        discriminate=lambda params, x, t, found: found["mark"],
        adversary=made.adversary._replace(features=features),
    )
    one = jnp.ones(())
    critics, key = Critics(one, one), jax.random.key(0)
    _, (metrics, _) = method.student_objective(
        made, one, critics, one, jnp.ones(10), batch["x"], None, key
    )  # fmt: skip
    assert float(metrics["g_loss"]) == pytest.approx(float(jax.nn.softplus(-logit)), rel=1e-5)
    _, metrics = method.critics_objective(made, critics, one, batch["x"], batch["x"], None, key)
    assert float(metrics["d_real"]) == logit


def test_the_discriminator_learns_to_say_more_of_real_data(start):
    _, _, made, _ = start
    made = made._replace(discriminate=lambda params, x, t, features: params * x[:, :1])
    real, drawn = 10 * jnp.ones((64, 2)), -10 * jnp.ones((64, 2))
    params = start[0].frozen["teacher"]
    loss = lambda p: method.critics_objective(  # noqa: E731
        made, Critics(params, p), params, drawn, real, None, jax.random.key(0)
    )[0]
    assert float(jax.grad(loss)(jnp.zeros(()))) < -5


def test_every_update_of_the_critics_sees_noise_of_its_own(start):
    """On equal parts, with networks that stand still, the mean loss of two is not that of one."""
    state, _, made, batch = start
    still = dict.fromkeys(RATES, STILL)
    nets = {name: init_net(net.params, STILL, {}) for name, net in state.nets.items()}
    state = TrainState.create(jax.random.key(1), nets, state.frozen)
    found = []
    for count in (1, 2):
        parts = {"x": jnp.stack([batch["x"]] * count)}
        run_critics = fast_jit(lambda s, p: method.train_critics(made, still, s, p, jax.random.key(2))[1])
        found.append(float(run_critics(state, parts)["fake_loss"]))
    assert found[0] != pytest.approx(found[1], rel=1e-3)


_QUICK = ("jensen_shannon",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow) for name in DIVERGENCES],
)
def test_every_divergence_takes_whole_steps(start, name):
    _, after, metrics = step(start, RATES, divergence=divergence(name))
    values = {key: float(value) for key, value in metrics.items()}
    assert np.isfinite(list(values.values())).all()
    assert values["finite"] == 1.0
    assert (values["h_std"] == 0.0) == (name == "reverse_kl")
    assert values["ratio_std"] > 0
    assert values["score_difference"] > 0
    means = after.nets["discriminator"].mutable["ratio_means"]
    assert means.shape == (10,)
    assert not np.allclose(means, 1.0)


class TestStudent:
    def test_it_starts_as_the_teachers_estimate_at_the_highest_noise_in_one_call(self, start):
        state, target, made, _ = start
        params, calls = state.frozen["teacher"], []

        def counted(*arguments):
            calls.append(1)
            return target.score(*arguments)

        keys = jax.random.split(jax.random.key(5), 7)
        generate = sampling.make_generate(made._replace(score=counted), (2,), False)
        found = generate(state.nets["student"].params, keys, jnp.zeros(7, jnp.int32))
        z = sampling.start_noise(keys, (2,))
        expected, _ = target.score(params, 5.0 * z, jnp.full(7, 5.0), None)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert len(calls) == 1

    def test_later_steps_start_from_noised_data_in_training_and_from_its_own_samples_after(self, start):
        _, _, made, _ = start
        levels, seen = (5.0, 0.5, 0.1), []

        def score(params, x, t, cond):
            seen.append((np.asarray(x), np.asarray(t)))
            return 100.0 + 0 * x, {}

        few = made._replace(score=score, grid=networks.make_grid(made.process, levels))
        real = jnp.full((30_000, 2), 7.0)
        method.generate(few, {}, jax.random.key(0), real, None)
        x, t = seen.pop()
        for level, mean in ((5.0, 0.0), (0.5, 7.0), (0.1, 7.0)):
            rows = x[np.isclose(t, level)]
            assert len(rows) == pytest.approx(10_000, rel=0.05)
            np.testing.assert_allclose(rows.mean(axis=0), mean, atol=0.2)
            np.testing.assert_allclose(rows.std(axis=0), level, rtol=0.03)
        keys = jax.random.split(jax.random.key(1), 4000)
        with jax.disable_jit():
            drawn = sampling.draw(few, {}, keys, (2,), None)
        np.testing.assert_array_equal(drawn, 100.0)
        assert [round(float(t[0]), 3) for _, t in seen] == list(levels)
        for (x, _), level in zip(seen[1:], levels[1:], strict=True):  # x0 = 100, noised afresh
            np.testing.assert_allclose(x.mean(axis=0), 100.0, atol=0.05)
            np.testing.assert_allclose(x.std(axis=0), level, rtol=0.05)
        assert np.corrcoef(seen[1][0][:, 0], seen[2][0][:, 0])[0, 1] == pytest.approx(0.0, abs=0.05)

    def test_levels_are_times_of_any_process(self):
        grid = networks.make_grid(VP(), (80.0, 1.0))
        noise = VP().sigma(grid[:-1]) / VP().alpha(grid[:-1])
        np.testing.assert_allclose(noise, [80.0, 1.0], rtol=1e-3)
        drawn = networks.make_times(VP(), 0.01, 50.0)(jax.random.key(0), VP(), 4000)
        levels = VP().sigma(drawn) / VP().alpha(drawn)
        assert 0.01 < float(levels.min()) < 0.03
        assert 30 < float(levels.max()) < 50
        root = levels ** (1 / 7)  # uniform between its ends
        assert float(jnp.mean(root)) == pytest.approx((0.01 ** (1 / 7) + 50 ** (1 / 7)) / 2, rel=0.02)


def test_guidance_mixes_the_teachers_two_estimates():
    def look(params, x, t, cond):
        return x * jnp.where(cond["unconditional"], 1.0, 3.0)[:, None], {"a": x}

    x, cond = jnp.ones((4, 2)), {"label": jnp.zeros(4, jnp.int32), "unconditional": jnp.zeros(4, bool)}
    found, features = networks.guided(look, 2.5, True)({}, x, jnp.ones(4), cond)
    np.testing.assert_allclose(found, 1 + 2.5 * 2)
    np.testing.assert_array_equal(features["a"], x)
    assert networks.guided(look, 1.0, True) is look
    with pytest.raises(ValueError, match="guidance"):
        networks.guided(look, 2.0, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": "emd"}, "divergence"),
        ({"critic_steps": 0}, "critic_steps"),
        ({"gan__features": "student"}, "gan.features"),
        ({"gan__penalty": "r2"}, "gan.penalty"),
        ({"gan__weight": -1.0}, "gan.weight"),
        ({"weight__name": "snr"}, "weight.name"),
        ({"noise__low": 6.0}, "config.noise"),
        ({"ratio__low": 30.0}, "config.ratio"),
        ({"ratio__decay": 1.0}, "ratio.decay"),
        ({"ratio__bins": 0}, "bins"),
        ({"student_levels": (1.0, 2.0)}, "student_levels"),
        ({"sample__ema": "0.5"}, "sample.ema"),
        ({"guidance": 2.0}, "guidance"),
        ({"eval__teacher": "euler"}, "eval.teacher"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        make_experiment(config_with(**changes))


@pytest.mark.slow
def test_resuming_is_exact_and_devices_do_not_matter(tmp_path):
    whole = run(config_with(), 8)
    with CheckpointStore(tmp_path) as store:
        run(config_with(), 3, store=store)
        resumed = run(config_with(), 8, store=store)
    assert same(whole.nets, resumed.nets)
    assert same(whole.frozen, resumed.frozen)
    spread = run(config_with(), 8, mesh=make_mesh(4))
    for a, b in zip(jax.tree.leaves(whole.nets), jax.tree.leaves(spread.nets), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
