"""Compression of decoders with planted redundancy, which it must find; moments by brute force; limits."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.models.decoder_lm import DecoderConfig, DecoderLM, Layer, Rope, uniform_layers
from experiments.modegpt import baselines
from experiments.modegpt.compression import Settings, compress, gather
from experiments.modegpt.method import Job, Options, compress_layer
from experiments.modegpt.methods import METHODS
from experiments.modegpt.runner import Runner

HIDDEN, SIZE, RANK, PAIRS = 20, 8, 5, 3
LLAMA = DecoderConfig(
    vocabulary=41,
    width=24,
    heads=4,
    kv_heads=2,
    head_size=SIZE,  # 4 heads of 8 are not the width
    layers=uniform_layers(2, HIDDEN, SIZE),
    positions=32,
    norm_epsilon=1e-9,  # what a narrow stream does to a large one is no part of these identities
    rope=Rope(100.0),
)
CASES = {
    "grouped": LLAMA,
    "all_heads": DecoderConfig(**{**vars(LLAMA), "kv_heads": 4, "tied": True}),
    "one_head": DecoderConfig(**{**vars(LLAMA), "kv_heads": 1}),
    "opt": DecoderConfig(
        41, 32, 4, 4, SIZE, uniform_layers(2, HIDDEN, SIZE), 32, "opt", "relu", bias=True, tied=True
    ),
}
# duplicates are told from others only by a small ridge of the scores, and made up for by a small one of the
# reconstruction: it pulls towards the units' own outputs
EXACT = Options(ridge=1e-7, leverage=1e-5)
EVERYTHING = tuple(sorted({name for method in METHODS.values() for name in method.needs}))


class Held(NamedTuple):
    """What the programs read from a checkpoint, in memory."""

    config: DecoderConfig
    params: dict[str, Any]

    def layer(self, number):
        return self.params[f"layers_{number}"]

    def ends(self):
        return {name: value for name, value in self.params.items() if not name.startswith("layers_")}


def random_decoder(config, seed=0):
    """Weights large enough for every part to be heard in the logits; norms and biases are not trivial."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        last = path[-1].key
        values = random.normal(size=leaf.shape) * (0.3 if last in ("kernel", "head") else 0.5)
        return (values + (last == "scale")).astype(np.float32)

    return Held(config, jax.tree_util.tree_map_with_path(draw, shapes_of(config)))


@cache
def shapes_of(config):
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    return jax.eval_shape(DecoderLM(config).init, jax.random.key(0), tokens)["params"]


def texts(seed, count=16, length=24):
    return np.random.default_rng(seed).integers(0, 41, (count, length)).astype(np.int32)


def logits(config, params, tokens):
    return np.asarray(_apply(DecoderLM(config), params, jnp.asarray(tokens)))


@partial(jax.jit, static_argnums=0)
def _apply(model, params, tokens):
    return model.apply({"params": params}, tokens)


def activations(files, tokens):
    """All that the whole model keeps, float64."""
    _, kept = apply_keeping(DecoderLM(files.config), files.params, jnp.asarray(tokens))
    return jax.tree.map(lambda value: np.asarray(value, np.float64), kept["features"])


@partial(jax.jit, static_argnums=0)
def apply_keeping(model, params, tokens):
    return model.apply({"params": params}, tokens, mutable=["features"])


def seen(files, needs=METHODS["modegpt"].needs, tokens=None, batch=8):
    return gather(Runner(files, batch), texts(1) if tokens is None else tokens, needs)


def assert_same_logits(files, config, params, slack=1e-5):
    fresh = texts(2, 4)
    expected = logits(files.config, files.params, fresh)
    found = logits(config, params, fresh)
    assert np.std(expected) > 0.1
    assert np.abs(found - expected).max() < slack * np.abs(expected).max()


def planted_shares(config, hidden=HIDDEN, keys=SIZE, values=SIZE):
    return np.tile([1 - hidden / HIDDEN, 1 - keys / SIZE, 1 - values / SIZE], (len(config.layers), 1))


def heads(params, name, count):
    """A map's kernel by heads, as a view."""
    kernel = params[name]["kernel"]
    return kernel.reshape(len(kernel), count, -1)


# -- what does nothing goes ---------------------------------------------------------------------------------


def kill_units(files, number, dead):
    """Units that are always 0: no input, and a bias that keeps them there."""
    part = files.layer(number)["up"]
    part["kernel"][:, dead] = 0
    if "bias" in part:
        part["bias"][dead] = -0.5


def repeat_units(files, number, pairs):
    """Units that are another, times a number; their outputs differ."""
    for one, other in pairs:
        up = files.layer(number)["up"]
        for name, value in up.items():
            up[name] = value.copy()
            up[name][..., other] = 0.5 * up[name][..., one]  # exact in float32
        if "gate" in files.layer(number):
            gate = files.layer(number)["gate"]["kernel"]
            gate[:, other] = gate[:, one]


def silence_pairs(files, number):
    """One pair of each head of keys, another one than its neighbour's; returns what is left of each."""
    config, params = files.config, files.layer(number)
    left, group = [], config.heads // config.kv_heads
    keys, queries = heads(params, "key", config.kv_heads), heads(params, "query", config.heads)
    for head in range(config.kv_heads):
        pair = (head + number) % (SIZE // 2)
        both = [pair, pair + SIZE // 2]
        if head % 2:
            queries[:, head * group : (head + 1) * group, both] = 0
        else:
            keys[:, head, both] = 0
        queries[:, head * group, [(pair + 1) % 4, (pair + 1) % 4 + 4]] = 0  # one of its queries: not silent
        if group == 1:
            queries[:, head, (pair + 1) % 4] = 0.3  # its only one
        left.append(tuple(i for i in range(SIZE // 2) if i != pair))
    return tuple(left)


def flatten_values(files, number):
    """Values of fewer dimensions (even layers), or outputs that read fewer, together over a group (odd)."""
    config, params = files.config, files.layer(number)
    random, kv = np.random.default_rng(number), config.kv_heads
    project = random.normal(size=(kv, SIZE, RANK)) @ random.normal(size=(kv, RANK, SIZE)) * 0.2
    if number % 2:
        out = params["out"]["kernel"].reshape(kv, -1, SIZE, config.width)
        out[:] = np.einsum("kij,kgjd->kgid", project, out)
    else:
        value = heads(params, "value", kv)
        value[:] = np.einsum("dki,kij->dkj", value, project)


@pytest.mark.parametrize("name", ["grouped", "opt"])
def test_dead_units_go_and_the_others_stay_as_they_are(name):
    """At the usual ridge."""
    files, dead = random_decoder(CASES[name]), [0, 7, 8, 19]
    for number in (0, 1):
        kill_units(files, number, dead)
    config, params = compress(
        files, seen(files), Settings(options=Options(affine=False)), planted_shares(files.config, HIDDEN - 4)
    )
    assert [layer.hidden for layer in config.layers] == [HIDDEN - 4] * 2
    alive = np.setdiff1d(np.arange(HIDDEN), dead)
    np.testing.assert_array_equal(
        params["layers_1"]["up"]["kernel"], files.layer(1)["up"]["kernel"][:, alive]
    )
    np.testing.assert_allclose(
        params["layers_1"]["down"]["kernel"], files.layer(1)["down"]["kernel"][alive], atol=1e-6
    )
    assert_same_logits(files, config, params)


@pytest.mark.parametrize("name", ["all_heads", "opt"])
def test_repeated_units_go_into_what_reads_the_first(name):
    files = random_decoder(CASES[name])
    for number in (0, 1):
        repeat_units(files, number, [(0, 5), (2, 3), (2, 11)])
    config, params = compress(
        files, seen(files), Settings(options=EXACT), planted_shares(files.config, HIDDEN - 3)
    )
    kept = files.layer(0)["up"]["kernel"][:, [i for i in range(HIDDEN) if i not in (3, 5, 11)]]
    np.testing.assert_array_equal(params["layers_0"]["up"]["kernel"], kept)
    assert_same_logits(files, config, params)


@pytest.mark.parametrize("name", ["grouped", "all_heads", "one_head"])
def test_silent_rotary_pairs_go_from_each_head_its_own(name):
    files = random_decoder(CASES[name])
    left = [silence_pairs(files, number) for number in (0, 1)]
    config, params = compress(files, seen(files), Settings(), planted_shares(files.config, keys=2 * PAIRS))
    assert [layer.pairs for layer in config.layers] == left
    assert_same_logits(files, config, params)


@pytest.mark.parametrize("name", ["grouped", "one_head", "opt"])
def test_values_and_outputs_of_lower_rank_are_narrowed_for_whole_groups(name):
    files = random_decoder(CASES[name])
    for number in (0, 1):
        flatten_values(files, number)
    config, params = compress(files, seen(files), Settings(), planted_shares(files.config, values=RANK))
    assert [layer.values for layer in config.layers] == [RANK] * 2
    assert_same_logits(files, config, params)


@pytest.mark.parametrize("name", CASES)
def test_all_at_once(name):
    files = random_decoder(CASES[name])
    rotates = CASES[name].family == "llama"
    for number in (0, 1):
        kill_units(files, number, [1, 4])
        repeat_units(files, number, [(0, 5)])
        flatten_values(files, number)
        if rotates:
            silence_pairs(files, number)
    keys = 2 * PAIRS if rotates else SIZE
    config, params = compress(
        files, seen(files), Settings(options=EXACT), planted_shares(files.config, HIDDEN - 3, keys, RANK)
    )
    assert [layer[:3] for layer in config.layers] == [(HIDDEN - 3, keys, RANK)] * 2
    assert_same_logits(files, config, params)


def test_keys_that_are_the_same_for_all_tokens_go():
    """Softmax does not see them, however large they are."""
    files = random_decoder(CASES["opt"])
    for number in (0, 1):
        heads(files.layer(number), "key", 4)[:, :, [1, 6]] = 0
        files.layer(number)["key"]["bias"].reshape(4, SIZE)[:, [1, 6]] = 5.0
    shares = planted_shares(files.config, keys=SIZE - 2)
    config, params = compress(files, seen(files), Settings(), shares)
    assert_same_logits(files, config, params)
    _, other = compress(files, seen(files), Settings(options=Options(centred=False)), shares)
    assert np.abs(logits(config, other, texts(2, 4)) - logits(config, params, texts(2, 4))).max() > 1e-3


def test_a_constant_added_to_keys_changes_neither_choice_nor_logits():
    files, moved = random_decoder(CASES["opt"]), random_decoder(CASES["opt"])
    for number in (0, 1):
        moved.layer(number)["key"]["bias"] += np.linspace(-2, 2, 32, dtype=np.float32)
    shares = planted_shares(files.config, keys=5)
    config, params = compress(files, seen(files), Settings(), shares)
    _, other = compress(moved, seen(moved), Settings(), shares)
    for number in ("layers_0", "layers_1"):
        np.testing.assert_array_equal(params[number]["query"]["kernel"], other[number]["query"]["kernel"])
        np.testing.assert_array_equal(params[number]["key"]["kernel"], other[number]["key"]["kernel"])
    first, second = (logits(config, each, texts(2, 4)) for each in (params, other))
    np.testing.assert_allclose(second, first, atol=1e-5 * np.abs(first).max())


def test_constant_values_and_units_move_into_biases():
    files = random_decoder(CASES["opt"])
    for number in (0, 1):
        params = files.layer(number)
        params["value"]["kernel"][:] = 0
        params["up"]["kernel"][:, 4:12] = 0
        params["up"]["bias"][4:12] = np.arange(1, 9) / 8
    config, params = compress(
        files, seen(files), Settings(), planted_shares(files.config, HIDDEN - 8, values=1)
    )
    assert config.layers[0][:3] == (HIDDEN - 8, SIZE, 1)
    assert_same_logits(files, config, params)


# -- nothing to do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grouped", "opt"])
def test_ratio_0_leaves_every_byte(name):
    files = random_decoder(CASES[name])
    gathered = seen(files, EVERYTHING)
    for kind in METHODS:
        if kind == "slicegpt" and name == "opt":
            continue
        config, params = compress(files, gathered, Settings(kind, 0.0, "uniform"))
        assert config == files.config
        assert jax.tree.structure(params) == jax.tree.structure(files.params)
        for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(files.params), strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes()


# -- what is measured ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["grouped", "opt"])
def brute(request):
    """A decoder, its calibration text, and the activations of the whole model on it, float64, by layer."""
    files = random_decoder(CASES[request.param])
    tokens, found = texts(5, 7), []
    kept = activations(files, tokens)
    stream = files.params["embed"][tokens].astype(np.float64)
    if files.config.family == "opt":
        stream += files.params["positions"][2 : 2 + tokens.shape[1]]
    for number in range(2):
        after = kept[f"hidden{number}"]
        layer = {**kept[f"layers_{number}"], "before": stream, "after": after}
        for name in ("before", "middle", "after"):
            if name == "middle" or name in layer:
                layer[f"long_{name}"] = layer[name]
                layer[name] = layer[name] / np.sqrt(np.mean(layer[name] ** 2, axis=-1, keepdims=True))
        found.append(layer)
        stream = after
    return files, tokens, found


def test_moments_are_those_of_the_whole_model(brute):
    files, tokens, expected = brute
    for kept, one in zip(seen(files, EVERYTHING, tokens, 3), expected, strict=True):
        assert kept.moments.keys() == set(EVERYTHING)
        for name, moment in kept.moments.items():
            x = one[name].reshape(tokens.size, -1)
            second = x.T @ x / len(x)
            if name == "values":
                x = x.reshape(len(x), -1, SIZE)
                second = np.einsum("nki,nkj->kij", x, x) / len(x)
            if name in ("queries", "keys"):
                second = np.diag(second)
            slack = {"rtol": 1e-4, "atol": 1e-5 * np.abs(second).max(), "err_msg": name}
            np.testing.assert_allclose(moment.second, second, **slack)
            np.testing.assert_allclose(moment.mean, x.mean(axis=0), rtol=1e-4, atol=1e-5, err_msg=name)
            assert moment.count == tokens.size


def test_influence_is_how_far_a_layer_turns_the_stream(brute):
    files, tokens, expected = brute
    for kept, one in zip(seen(files, (), tokens, 3), expected, strict=True):
        a, b = one["long_before"], one["long_after"]
        cosines = np.sum(a * b, axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        np.testing.assert_allclose(kept.influence, 1 - cosines.mean(), atol=1e-6)


@pytest.mark.parametrize("name", ["grouped", "opt"])
def test_batches_and_the_order_of_texts_change_nothing(name):
    files = random_decoder(CASES[name])
    shares, tokens = planted_shares(files.config, 14, 6, 6), texts(5, 7)
    made = [
        compress(files, seen(files, tokens=some, batch=batch), Settings(), shares)
        for some, batch in ((tokens, 1), (tokens, 3), (tokens[::-1], 8))
    ]
    expected = logits(*made[0], texts(2, 4))
    for config, params in made[1:]:
        assert config == made[0][0]
        np.testing.assert_allclose(
            logits(config, params, texts(2, 4)), expected, atol=1e-4 * np.abs(expected).max()
        )


# -- optima -------------------------------------------------------------------------------------------------


def output_error(values, before, after, kv):
    """Squares of what all heads of queries lose, on values (n, kv, h)."""
    total = 0.0
    for head in range(kv):
        x, rest = values["x"], []
        for made in (before, after):
            v = x @ heads(made, "value", kv)[:, head].astype(np.float64)
            out = made["out"]["kernel"].astype(np.float64).reshape(kv, -1, v.shape[1], 24)[head]
            rest.append(np.einsum("nh,ghd->ngd", v, out))
        total += np.mean(np.sum((rest[0] - rest[1]) ** 2, axis=(1, 2)))
    return total


def test_joint_values_are_optimal_and_no_worse_than_values_alone():
    for name, seed in (("grouped", 0), ("one_head", 1), ("grouped", 2)):
        files = random_decoder(CASES[name], seed)
        kv, tokens = files.config.kv_heads, texts(5, 7)
        x = activations(files, tokens)["layers_0"]["attention_in"].reshape(-1, 24)
        stats, whole = seen(files, tokens=tokens)[0].moments, files.config.layers[0]
        target = whole._replace(values=RANK)
        joint, alone = (
            compress_layer(Job(files.config, 0, files.layer(0), stats, target, Options(joint=joint)))[1]
            for joint in (True, False)
        )
        errors = [output_error({"x": x}, files.layer(0), made, kv) for made in (joint, alone)]
        tails = 0.0
        for head in range(kv):
            v = x @ heads(files.layer(0), "value", kv)[:, head]
            out = files.layer(0)["out"]["kernel"].reshape(kv, -1, SIZE, 24)[head]
            side = out.transpose(1, 0, 2).reshape(SIZE, -1)
            tails += np.sum(np.linalg.svd(v @ side, compute_uv=False)[RANK:] ** 2) / len(v)
        np.testing.assert_allclose(errors[0], tails, rtol=1e-3)
        assert errors[0] < errors[1]


# -- other methods ------------------------------------------------------------------------------------------


def sliced(files, width):
    """The decoder with a stream of that width."""
    gathered, config = seen(files, baselines.SLICE_NEEDS), files.config
    layers = tuple(layer._replace(stream=(width,) * 3) for layer in config.layers)
    made = {
        f"layers_{n}": baselines.slice_layer(
            Job(config, n, files.layer(n), gathered[n].moments, layer, Options())
        )[1]
        for n, layer in enumerate(layers)
    }
    first, last = gathered[0].moments["before"].second, gathered[-1].moments["after"].second
    ends = baselines.slice_ends(config, files.ends(), first, last, layers[0])
    return DecoderConfig(**{**vars(config), "layers": layers, "tied": False}), {**ends, **made}


@pytest.mark.parametrize("name", ["grouped", "all_heads"])
def test_a_turned_stream_of_whole_width_gives_the_same_logits(name):
    files = random_decoder(CASES[name])
    assert_same_logits(files, *sliced(files, 24))


@pytest.mark.parametrize("name", ["grouped", "all_heads"])
def test_a_stream_in_a_plane_narrows_to_it(name):
    files = random_decoder(CASES[name])
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(24, 11)))[0]
    plane = (basis @ basis.T).astype(np.float32)
    files.params["embed"] = files.params["embed"] @ plane
    if files.config.tied:
        files.params["norm"]["scale"][:] = 1
    for number in (0, 1):
        for part in ("out", "down"):
            files.layer(number)[part]["kernel"] = files.layer(number)[part]["kernel"] @ plane
    assert_same_logits(files, *sliced(files, 11))


@pytest.mark.parametrize("name", ["grouped", "opt"])
@pytest.mark.parametrize("stats", [True, False])
def test_products_of_whole_rank_give_the_same_logits(name, stats):
    files = random_decoder(CASES[name])
    whole = files.config.layers[0]
    ranks = tuple((part, min(size)) for part, size in files.config.maps(whole).items())
    gathered, target = seen(files, baselines.SVD_NEEDS), Layer(*whole[:4], ranks)
    moments = lambda n: gathered[n].moments if stats else {}  # noqa: E731
    made = [
        baselines.svd_layer(Job(files.config, n, files.layer(n), moments(n), target, Options()))
        for n in (0, 1)
    ]
    config = DecoderConfig(**{**vars(files.config), "layers": tuple(layer for layer, _ in made)})
    params = {**files.ends(), **{f"layers_{n}": params for n, (_, params) in enumerate(made)}}
    assert_same_logits(files, config, params)


@pytest.mark.parametrize("name", ["grouped", "opt"])
@pytest.mark.parametrize("kind", ["magnitude", "random"])
def test_chosen_columns_are_the_models_own_in_their_order(name, kind):
    files = random_decoder(CASES[name])
    gathered = seen(files, METHODS[kind].needs)
    _, params = compress(files, gathered, Settings(kind), planted_shares(files.config, 12, 4, 5))
    for number in ("layers_0", "layers_1"):
        old, new = files.params[number], params[number]
        for part in {"query", "key", "value", "up", "gate"} & set(old):
            whole = np.concatenate([np.atleast_2d(old[part][leaf]) for leaf in sorted(old[part])])
            some = np.concatenate([np.atleast_2d(new[part][leaf]) for leaf in sorted(new[part])])
            same = (whole[:, :, None] == some[:, None, :]).all(axis=0)
            np.testing.assert_array_equal(same.sum(axis=0), 1, err_msg=part)
            places = same.argmax(axis=0)
            assert len(set(places.tolist())) == some.shape[1]
            if part in ("up", "gate", "value"):
                assert (np.diff(places) > 0).all()
    again = compress(files, gathered, Settings(kind), planted_shares(files.config, 12, 4, 5))[1]
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(params)))
    if kind == "random":
        other = Settings(kind, options=Options(seed=1))
        drawn = compress(files, gathered, other, planted_shares(files.config, 12, 4, 5))[1]
        assert not np.array_equal(drawn["layers_0"]["up"]["kernel"], params["layers_0"]["up"]["kernel"])


def test_magnitude_keeps_what_is_largest():
    files = random_decoder(CASES["grouped"])
    small = [3, 9, 10]
    for number in (0, 1):
        files.layer(number)["up"]["kernel"][:, small] *= 1e-3
        files.layer(number)["gate"]["kernel"][:, small] *= 1e-3
    _, params = compress(
        files, seen(files, ()), Settings("magnitude"), planted_shares(files.config, HIDDEN - 3)
    )
    kept = [i for i in range(HIDDEN) if i not in small]
    np.testing.assert_array_equal(
        params["layers_0"]["down"]["kernel"], files.layer(0)["down"]["kernel"][kept]
    )
