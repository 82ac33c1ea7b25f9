"""Mixtures of denoising experts: routing, groups, the transformer and the cache of chosen experts."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffax import bind, sample
from diffax.models import (
    TENSOR_RULES,
    ActionTransformer,
    apply_cached,
    build_cache,
    cache_bytes,
    check_cache,
)
from diffax.models.layers import experts
from diffax.processes import EDM, grids
from diffax.samplers import ddim
from diffax.training import make_mesh, tree_shardings

SMALL = {"width": 16, "depth": 1, "heads": 2}


def inputs(batch, seed=0):
    keys = iter(jax.random.split(jax.random.key(seed), 4))
    x = jax.random.normal(next(keys), (batch, 5, 3))
    time = jax.random.normal(next(keys), (batch,))
    goal, seen = jax.random.normal(next(keys), (batch, 4)), jax.random.normal(next(keys), (batch, 1, 1, 6))
    return x, time, {"goal": goal, "observation": seen}


@functools.cache
def make(**options):
    """A network whose routers matter: their weights are enlarged."""
    model = ActionTransformer(**{**SMALL, **options})
    params = jax.jit(model.init)(jax.random.key(1), *inputs(2))["params"]
    enlarge = lambda path, w: w * 30 if "routing" in jax.tree_util.keystr(path) else w  # noqa: E731
    return model, jax.tree_util.tree_map_with_path(enlarge, params)


# -- routing ------------------------------------------------------------------------------------------------


def test_gates_are_of_the_likeliest_and_sum_to_one():
    logits = 3 * jax.random.normal(jax.random.key(0), (50, 6))
    found = experts.choose(logits, 3)
    assert all(len(set(row)) == 3 for row in np.asarray(found.chosen).tolist())
    np.testing.assert_allclose(found.gates.sum(axis=1), 1, atol=1e-6)
    gates = np.asarray(experts.all_gates(found))
    assert ((gates > 0).sum(axis=1) == 3).all()
    probs = np.asarray(found.probs)
    assert (np.where(gates > 0, probs, 1).min(axis=1) >= np.where(gates > 0, 0, probs).max(axis=1)).all()


def test_drawn_experts_follow_the_softmax_without_replacement():
    """Ordered pairs of 4 experts against p_i p_j / (1 - p_i)."""
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.15, 0.05]))
    n = 20_000
    found = experts.choose(jnp.broadcast_to(logits, (n, 4)), 2, jax.random.key(5))
    p = np.exp(np.asarray(logits, np.float64))
    pairs = list(itertools.permutations(range(4), 2))
    expected = np.asarray([p[i] * p[j] / (1 - p[i]) for i, j in pairs])
    counts = np.asarray([np.sum(np.all(np.asarray(found.chosen) == pair, axis=1)) for pair in pairs])
    assert counts.sum() == n
    assert stats.chisquare(counts, n * expected / expected.sum()).pvalue > 1e-3


def test_load_balance_of_even_and_of_collapsed_routings():
    even = experts.choose(jnp.log(jnp.asarray([[0.5, 0.5, 1e-9, 1e-9], [1e-9, 1e-9, 0.5, 0.5]])), 2)
    assert float(experts.load_balance(even)) == pytest.approx(2, abs=1e-5)
    same = experts.choose(jnp.log(jnp.asarray([[0.6, 0.3, 0.1, 1e-9]] * 3)), 2)
    assert float(experts.load_balance(same)) == pytest.approx(4 * 0.9, abs=1e-5)


@pytest.mark.parametrize(("batch", "count", "top_k"), [(17, 4, 2), (40, 8, 3)])
def test_grouped_experts_are_the_sum_of_single_ones(batch, count, top_k):
    """Both ways against numpy, one sample and expert after the other; their gradients against each other."""
    bank = experts.ExpertBank(count, 12, group=4)
    x = jax.random.normal(jax.random.key(0), (batch, 3, 8))
    routing = experts.choose(2 * jax.random.normal(jax.random.key(1), (batch, count)), top_k)
    params = jax.jit(bank.init)(jax.random.key(2), x, routing)["params"]
    params["bias"] += jax.random.normal(jax.random.key(3), params["bias"].shape)
    into, bias, back = (np.asarray(params[name], np.float64) for name in ("into", "bias", "back"))
    expected = np.zeros(x.shape)
    for i, n in np.ndindex(batch, top_k):
        e = int(routing.chosen[i, n])
        u, v = np.split(np.asarray(x[i], np.float64) @ into[e] + bias[e], 2, axis=-1)
        expected[i] += float(routing.gates[i, n]) * (u * v / (1 + np.exp(-v))) @ back[e]

    def run(params, grouped):
        out = bank.apply({"params": params}, x, routing, grouped=grouped)
        return jnp.sum(out**3), out

    both = [jax.jit(jax.grad(functools.partial(run, grouped=g), has_aux=True))(params) for g in (True, False)]
    for _, out in both:
        np.testing.assert_allclose(out, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), both[0][0], both[1][0])


def test_groups_hold_one_expert_each():
    chosen = jnp.asarray([2, 0, 2, 2, 0, 3, 2, 2])
    slot, expert_of = experts.group_by_expert(chosen, 4, 2, 8)
    assert len(set(slot.tolist())) == 8
    np.testing.assert_array_equal(expert_of[slot // 2], chosen)


# -- the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "experts_", "transformer", "active"), [(12, 4, 685.85e6, 383.7e6), (8, 4, 459.2e6, None)]
)
def test_parameters_of_the_published_sizes(depth, experts_, transformer, active):
    """Two cameras of 2,048 numbers, a goal of 512, ten actions of seven; shapes alone."""
    cond = {"goal": jnp.zeros((1, 512)), "observation": jnp.zeros((1, 1, 2, 2048))}
    count = {}
    for k in (2, experts_):
        model = ActionTransformer(depth=depth, experts=k)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 10, 7)), jnp.zeros(1), cond)
        count[k] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count[experts_] == pytest.approx(transformer, abs=0.05e6)
    if active:  # a router of two experts instead of four is 4,098 numbers a layer smaller
        assert count[2] + depth * (2 * 2048 + 2) == pytest.approx(active, abs=0.05e6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"experts": 1, "top_k": 1},
        {"shared_expert": True},
        {"router": "token"},
        {"router": "both", "residual": "official"},
        {"noise_conditioning": "film", "noise_token": False},
        {"noise_conditioning": "none", "dropout": 0.1, "attention_dropout": 0.1},
    ],
)
def test_every_switch_trains(options):
    """Gradients reach every weight over a few batches, and the loss on balance is there where routers are."""
    model, params = make(**options)

    def loss(params, seed):
        x, time, cond = inputs(16, seed)
        rngs = {"dropout": jax.random.key(seed)}
        out, kept = model.apply({"params": params}, x, time, cond, True, rngs=rngs, mutable=["losses"])
        return jnp.mean((out - jnp.roll(x, 1, axis=2)) ** 2) + sum(jax.tree.leaves(kept), jnp.zeros(()))

    gradient = jax.jit(jax.grad(loss))
    total = jax.tree.map(lambda *g: np.abs(np.stack(g)).sum(axis=0), *(gradient(params, s) for s in range(3)))
    leaves = jax.tree_util.tree_leaves_with_path(total)
    assert not {jax.tree_util.keystr(path) for path, leaf in leaves if not leaf.any()}
    assert (model.experts > 1) == any("routing" in jax.tree_util.keystr(path) for path, _ in leaves)


def test_experts_that_were_not_chosen_learn_nothing_from_a_sample():
    model, params = make()
    x, time, cond = inputs(1)
    routing = model.apply({"params": params}, time, method="route")
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.apply({"params": p}, x, time, cond) ** 2)))(params)
    for layer, routed in enumerate(routing):
        used = np.abs(gradient[f"blocks_{layer}"]["bank"]["into"]).sum(axis=(1, 2)) > 0
        assert set(np.flatnonzero(used)) == set(np.asarray(routed.chosen[0]).tolist())


def test_actions_see_the_past_alone_and_the_noise_token_reaches_all():
    model, params = make()
    x, time, cond = inputs(2)
    run = jax.jit(lambda x, time, cond: model.apply({"params": params}, x, time, cond))
    plain = run(x, time, cond)
    moved = run(x.at[:, 2].add(1.0), time, cond)
    np.testing.assert_array_equal(plain[:, :2], moved[:, :2])
    assert np.abs(plain - moved)[:, 2:].min(axis=(0, 2)).all()
    assert np.abs(plain - run(x, time + 0.5, cond)).max(axis=2).min() > 1e-4
    assert np.abs(plain - run(x, time, cond | {"goal": cond["goal"] + 1})).max(axis=2).min() > 1e-4
    dropped = jnp.asarray([True, False])
    found = run(x, time, cond | {"unconditional": dropped})
    np.testing.assert_allclose(found[1], plain[1], atol=1e-6)
    np.testing.assert_allclose(found[0], run(x, time, cond | {"goal": 0 * cond["goal"]})[0], atol=1e-6)


def test_experts_lie_on_devices_of_their_own():
    """Four experts on four devices: the same outputs, a quarter of the bank on each."""
    model, params = make()
    mesh = make_mesh(1, 1, 4)
    placed = jax.device_put(params, tree_shardings({"params": params}, mesh, TENSOR_RULES)["params"])
    for leaf in placed["blocks_0"]["bank"].values():
        assert leaf.addressable_shards[0].data.shape == (1, *leaf.shape[1:])
    arguments = inputs(3)
    run = jax.jit(lambda p, *rest: model.apply({"params": p}, *rest))
    np.testing.assert_allclose(run(placed, *arguments), run(params, *arguments), atol=1e-5)


def test_routing_reads_the_noise_level_alone():
    """Its function takes nothing else; other routers refuse, and the gates move with the level."""
    model, params = make()
    first, second = (model.apply({"params": params}, jnp.full(1, t), method="route") for t in (-1.5, 1.0))
    assert any(np.abs(a.probs - b.probs).max() > 1e-3 for a, b in zip(first, second, strict=True))
    other, weights = make(router="token")
    with pytest.raises(ValueError, match="router: got 'token'"):
        other.apply({"params": weights}, jnp.zeros(1), method="route")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "top_k: got 5, allowed: 1 to 4"),
        ({"heads": 3}, "heads: got 3, allowed: a divisor of the width 16"),
        ({"shared_expert": True, "top_k": 1}, "top_k: got 1, allowed: 2 or more beside"),
        ({"router": "sigma"}, "router: got 'sigma'"),
        ({"residual": "post"}, "residual: got 'post'"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


# -- the cache ----------------------------------------------------------------------------------------------


def whole(model):
    return lambda params, x, time, cond: model.apply({"params": params}, x, time, cond)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 3, "experts": 6, "depth": 2},
        {"top_k": 4},
        {"shared_expert": True, "top_k": 3},
        {"experts": 1, "top_k": 1, "residual": "official"},
    ],
)
def test_cached_is_uncached(options):
    """At every level, for one sample and for three; the store is as large as the banks."""
    model, params = make(**options)
    times = jnp.asarray([1.1, 0.3, -0.2, -1.7])
    cache = build_cache(model, params, times)
    run, cached = jax.jit(whole(model)), jax.jit(apply_cached(model))
    x, _, cond = inputs(3)
    for time in times:
        expected = run(params, x, jnp.full(3, time), cond)
        found = cached(cache, x, jnp.full(3, time), cond)
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    one = cached(cache, x[:1], times[:1], {name: value[:1] for name, value in cond.items()})
    np.testing.assert_allclose(one, run(params, x, jnp.full(3, times[0]), cond)[:1], atol=1e-5)
    banks = [params[f"blocks_{i}"]["bank"] for i in range(model.depth)]
    numbers = 4 * (2 * cache.chosen.size + cache.times.size)
    assert cache_bytes(cache) == sum(leaf.nbytes for leaf in jax.tree.leaves(banks)) + numbers


def test_a_sampler_draws_the_same_through_the_cache():
    """Ten levels from 80 to 0.001 in equal steps of the log, then zero: actions agree to 1e-5."""
    model, params = make(depth=2)
    process = EDM(t_min=0.001, t_max=80.0)
    grid = grids.log_snr(process, 10, final="zero")
    np.testing.assert_allclose(grid, [*np.geomspace(80, 0.001, 10), 0], rtol=1e-4)
    cache = build_cache(model, params, jnp.log(grid[:-1]) / 4)
    cond, keys = inputs(3)[2], jax.random.split(jax.random.key(7), 3)

    def draw(apply_fn, weights):
        denoise = bind(apply_fn, weights, process=process, output="F", sigma_data=0.5, time_input="c_noise")
        return sample(keys, denoise, process, ddim(), grid, shape=(5, 3), cond=cond).x

    expected = jax.jit(functools.partial(draw, whole(model)))(params)
    found = jax.jit(functools.partial(draw, apply_cached(model)))(cache)
    assert float(jnp.abs(expected).max()) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_a_cache_knows_its_levels_and_its_network():
    model, params = make()
    times = jnp.asarray([0.9, 0.1, -0.7])
    cache = build_cache(model, params, times)
    x, _, cond = inputs(2)
    run = apply_cached(model)
    assert bool(jnp.isfinite(run(cache, x, jnp.full(2, 0.1), cond)).all())
    for bad in (jnp.full(2, 0.2), jnp.asarray([0.1, 0.9])):
        with pytest.raises(ValueError, match="allowed: one of the cache's 3 levels"):
            run(cache, x, bad, cond)
        assert bool(jnp.isnan(jax.jit(run)(cache, x, bad, cond)).all())
    check_cache(cache, model, params, times)
    changed = jax.tree.map(lambda w: w, params)
    bank = changed["blocks_0"]["bank"]
    changed["blocks_0"]["bank"] = bank | {"bias": bank["bias"] + 1e-3}
    for arguments in (
        (model, changed, times),
        (model, params, times + 0.1),
        (make(top_k=1)[0], params, times),
    ):
        with pytest.raises(ValueError, match="build the cache again"):
            check_cache(cache, *arguments)
    for bad in (jnp.asarray([0.1, 0.1]), jnp.asarray([jnp.nan]), jnp.zeros((0,))):
        with pytest.raises(ValueError, match="times: got"):
            build_cache(model, params, bad)
