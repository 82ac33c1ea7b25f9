"""The training step and loop on a problem small enough to solve by hand: y = w x with squared loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffax.training import (
    NonFiniteLossError,
    OptimizerConfig,
    TrainState,
    ema,
    init_net,
    make_mesh,
    make_optimizer,
    make_train_step,
    train,
)


class Numbers:
    """Batches 0, 1, 2, ... of fixed random numbers, with a position."""

    def __init__(self, batch=8, poison=None):
        self.step, self.batch, self.poison = 0, batch, poison

    def __next__(self):
        rng = np.random.default_rng(self.step)
        x = rng.normal(size=(self.batch, 3)).astype(np.float32)
        if self.step == self.poison:
            x[0, 0] = np.nan
        self.step += 1
        return {"x": x, "name": np.array(["a"] * self.batch)}

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


def loss_fn(params, batch, key):
    target = batch["x"] @ jnp.array([1.0, -2.0, 0.5])
    noise = 0.01 * jax.random.normal(key, ())
    return jnp.mean((batch["x"] @ params["w"] - target + noise) ** 2), {}


def quiet_loss(params, batch, key):
    return jnp.mean((batch["x"] @ params["w"] - 1.0) ** 2), {"twice": 2.0 * params["w"][0]}


def make(averages=None, loss=loss_fn, optimizer=None, **options):
    optimizer = optimizer or optax.sgd(0.1)
    averages = averages or {"slow": ema.constant(0.9)}
    step = make_train_step(loss, optimizer, averages, **options)
    net = init_net({"w": jnp.zeros(3)}, optimizer, averages)
    return TrainState.create(jax.random.key(0), {"model": net}), step


class MemoryStore:
    """Checkpoints in memory, behind the loop's protocol."""

    def __init__(self):
        self.saved = []

    def restore(self, template):
        return None if not self.saved else self.saved[-1]

    def save(self, state, data, metrics=None):
        self.saved.append((jax.tree.map(jnp.copy, state), data))

    def wait(self):
        pass


def test_it_learns_the_weights():
    state, step = make()
    state = train(state, step, Numbers(), num_steps=200)
    np.testing.assert_allclose(state.nets["model"].params["w"], [1.0, -2.0, 0.5], atol=0.02)
    assert int(state.step) == 200


def test_a_step_is_gradient_descent_by_hand():
    state, step = make(loss=quiet_loss)
    batch = {"x": jnp.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])}
    state, metrics = jax.jit(step)(state, batch)
    # d/dw mean((x w - 1)^2) at 0 = -2 mean(x) = -(1, 2, 0)
    np.testing.assert_allclose(state.nets["model"].params["w"], [0.1, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(state.nets["model"].ema["slow"]["w"], [0.01, 0.02, 0.0], atol=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(np.sqrt(5.0))
    assert float(metrics["loss"]) == pytest.approx(1.0)


def test_accumulation_equals_the_whole_batch():
    batch = next(Numbers(batch=12))
    results = []
    for parts in (1, 2, 4):
        state, step = make(loss=quiet_loss, accumulate=parts)
        state, metrics = step(state, {"x": jnp.asarray(batch["x"])})
        results.append((state.nets["model"].params["w"], metrics["loss"]))
    for other in results[1:]:
        np.testing.assert_allclose(other[0], results[0][0], atol=1e-6)
        np.testing.assert_allclose(other[1], results[0][1], rtol=1e-6)
    state, step = make(loss=quiet_loss, accumulate=5)
    with pytest.raises(ValueError, match="accumulate=5"):
        step(state, {"x": jnp.asarray(batch["x"])})


def test_each_part_of_an_accumulated_batch_has_its_own_noise():
    """The mean of four independent normals has standard deviation one half; of four equal ones, one."""
    noisy = lambda p, b, k: (jnp.sum(p["w"]) * 0.0, {"z": jax.random.normal(k)})  # noqa: E731
    state, step = make(loss=noisy, accumulate=4)
    step, batch = jax.jit(step), {"x": jnp.zeros((4, 3))}
    draws = [step(state.replace(step=jnp.asarray(i)), batch)[1]["z"] for i in range(300)]
    assert float(np.std(draws)) == pytest.approx(0.5, abs=0.08)


def test_resume_is_bit_for_bit():
    state, step = make()
    whole = train(state, step, Numbers(), num_steps=20)
    store = MemoryStore()
    train(make()[0], step, Numbers(), num_steps=7, checkpoints=store)
    resumed = train(make()[0], step, Numbers(), num_steps=20, checkpoints=store)
    for a, b in zip(jax.tree.leaves(whole.nets), jax.tree.leaves(resumed.nets), strict=True):
        np.testing.assert_array_equal(a, b)
    again = train(make()[0], step, Numbers(), num_steps=20, checkpoints=store)
    assert int(again.step) == 20


def test_a_loss_that_is_not_finite_stops_and_names_the_step():
    state, step = make()
    store = MemoryStore()
    with pytest.raises(NonFiniteLossError, match="step 6") as caught:
        train(
            state, step, Numbers(poison=5), num_steps=20, log_every=9, checkpoints=store, checkpoint_every=30
        )
    saved, position = store.saved[-1]
    assert int(saved.step) == 5
    assert position == {"step": 5}
    state, step = make()
    clean = train(state, step, Numbers(), num_steps=5)
    for a, b in zip(jax.tree.leaves(saved.nets), jax.tree.leaves(clean.nets), strict=True):
        np.testing.assert_array_equal(a, b)
    key = jax.random.key_data(jax.random.fold_in(clean.key, 5)).tolist()
    assert str(key) in str(caught.value)


def test_hooks_see_the_mean_since_the_last_log():
    seen = []
    state, step = make(loss=lambda p, b, k: (quiet_loss(p, b, k)[0], {"x": b["x"][0, 0]}))
    train(state, step, Numbers(), num_steps=6, log_every=4, hooks=[lambda s, m, _: seen.append((s, m["x"]))])
    firsts = [b["x"][0, 0] for b in itertools.islice(iter(Numbers().__next__, None), 6)]
    assert [s for s, _ in seen] == [4, 6]
    np.testing.assert_allclose([v for _, v in seen], [np.mean(firsts[:4]), np.mean(firsts[4:])], rtol=1e-5)


def test_one_trace_for_a_whole_run():
    traces = []

    def counted(params, batch, key):
        traces.append(1)
        return loss_fn(params, batch, key)

    state, step = make(loss=counted)
    train(state, step, Numbers(), num_steps=10)
    assert len(traces) == 1


@pytest.mark.parametrize("devices", [1, 8])
def test_devices_do_not_change_the_result(devices):
    state, step = make()
    plain = train(state, step, Numbers(), num_steps=20)
    state, step = make()
    spread = train(state, step, Numbers(), num_steps=20, mesh=make_mesh(devices))
    np.testing.assert_allclose(spread.nets["model"].params["w"], plain.nets["model"].params["w"], atol=1e-5)


def test_averages_against_the_sum_they_stand_for():
    """After n steps a constant average is the geometric sum over the history of parameters."""
    history = [np.array([float(i**2)]) for i in range(6)]
    averages = {"a": {"w": jnp.asarray(history[0])}}
    for step, params in enumerate(history[1:]):
        averages = ema.update(
            averages, {"w": jnp.asarray(params)}, {"a": ema.constant(0.7)}, jnp.asarray(step)
        )
    weights = [0.7**5] + [0.3 * 0.7 ** (5 - i) for i in range(1, 6)]
    np.testing.assert_allclose(averages["a"]["w"], np.dot(weights, history), rtol=1e-5)


def test_power_average_has_its_published_width():
    """gamma = 6.94: the standard deviation of the averaging profile is a tenth of the run."""
    schedule, n = ema.parse("power:6.94"), 2000
    decays = np.asarray(jax.vmap(schedule)(jnp.arange(n)))
    weights = (1 - decays) * np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    t = np.arange(n) / n
    mean = np.average(t, weights=weights)
    assert np.sqrt(np.average((t - mean) ** 2, weights=weights)) == pytest.approx(0.1, abs=0.002)


def test_warm_up_forgets_the_start():
    schedule = ema.parse("warmup:0.999")
    assert float(schedule(jnp.asarray(0))) == pytest.approx(0.1)
    assert float(schedule(jnp.asarray(10**6))) == pytest.approx(0.999)


def test_several_averages_at_once():
    averages = {name: ema.parse(name) for name in ("0.5", "warmup:0.99", "power:6.94")}
    state, step = make(averages=averages)
    state = train(state, step, Numbers(), num_steps=30)
    values = [float(state.nets["model"].ema[name]["w"][0]) for name in averages]
    assert len(set(values)) == 3


def test_the_learning_rate_follows_its_schedule():
    from diffax.training.optim import learning_rate

    rate = learning_rate(OptimizerConfig(1e-2, warmup_steps=10, schedule="cosine"), 110)
    assert [float(rate(s)) for s in (0, 5, 10, 60, 110)] == pytest.approx([0, 5e-3, 1e-2, 5e-3, 0], abs=1e-9)
    rate = learning_rate(OptimizerConfig(1e-2, schedule="cosine", end_rate=2e-3), 100)
    assert [float(rate(s)) for s in (0, 50, 100, 200)] == pytest.approx([1e-2, 6e-3, 2e-3, 2e-3], rel=1e-5)
    with pytest.raises(ValueError, match="end_rate"):
        OptimizerConfig(1e-2, end_rate=1e-3)  # a constant schedule has no other end


def test_clipping_bounds_the_update():
    optimizer = make_optimizer(OptimizerConfig(1.0, clip_norm=1e-3, eps=1.0), 10)
    params = {"w": jnp.zeros(3)}
    updates, _ = optimizer.update({"w": jnp.array([1e6, 0.0, 0.0])}, optimizer.init(params), params)
    assert 0 < float(-updates["w"][0]) <= 1.1e-3


def test_weights_decay_but_moments_of_norms_stay():
    params = {"norm": {"scale": jnp.ones(2), "mean": jnp.ones(2), "var": jnp.ones(2)}}
    optimizer = make_optimizer(OptimizerConfig(0.1, weight_decay=0.5), 10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["norm"]["scale"], -0.05, rtol=1e-6)
    assert not updates["norm"]["mean"].any()
    assert not updates["norm"]["var"].any()


@pytest.mark.parametrize(
    ("make_it", "field"),
    [
        (lambda: ema.parse("half:0.5"), "ema"),
        (lambda: ema.parse("fast"), "ema"),
        (lambda: ema.constant(1.0), "decay"),
        (lambda: OptimizerConfig(learning_rate=-1.0), "learning_rate"),
        (lambda: OptimizerConfig(schedule="step"), "schedule"),
        (lambda: make_mesh(9), "devices"),
        (lambda: make_train_step(loss_fn, optax.sgd(1.0), {}, accumulate=0), "accumulate"),
    ],
)
def test_bad_input_is_named(make_it, field):
    with pytest.raises(ValueError, match=field):
        make_it()
