"""Image encoders of policies: the published layout, FiLM, cameras as tokens, random shifts."""

import functools
import itertools
import math
import pickle
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy import stats

from diffax import bind, sample
from diffax.data import ArraySource, pipeline
from diffax.data.augment import random_shift
from diffax.guidance import classifier_free
from diffax.losses import drop_labels
from diffax.models import (
    ActionTransformer,
    FilmResNet,
    apply_cached,
    apply_keeping,
    build_cache,
    normalise_images,
    with_torchvision,
)
from diffax.models.film_resnet import EncoderBlock
from diffax.processes import EDM, grids
from diffax.samplers import ddim

SMALL = {"width": 16, "depth": 1, "heads": 2}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def shapes_of(model, *arguments):
    return jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]


def filled(shapes, seed=0):
    """Random parameters without zeros, for which nothing is compiled; moments and scales near one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return noise * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return 0.2 * noise if path[-1].key in ("bias", "mean", "positions") else 1 + 0.3 * np.tanh(noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def count(params):
    """Numbers that are learned: the moments of frozen norms are not."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(math.prod(leaf.shape) for path, leaf in leaves if path[-1].key not in ("mean", "var"))


# -- the layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize(("depth", "size"), [(18, 11_176_512), (50, 23_508_032)])
def test_parameters_are_torchvisions_without_the_classifier(depth, size, norm):
    assert count(shapes_of(FilmResNet(depth, norm), jnp.zeros((1, 64, 64, 3)))) == size


def test_parameters_of_two_encoders_under_a_goal_and_of_the_published_policy():
    """54.9 million of a pair with a goal of 512 numbers; 740.7 million of a policy with both cameras."""
    goal = jnp.zeros((1, 512))
    one = count(shapes_of(FilmResNet(50), jnp.zeros((1, 224, 224, 3)), goal))
    assert 2 * one == pytest.approx(54.9e6, abs=0.05e6)
    images = {"static": jnp.zeros((1, 1, 224, 224, 3)), "wrist": jnp.zeros((1, 1, 112, 112, 3))}
    model = ActionTransformer(image_encoder="resnet50")
    whole = shapes_of(model, jnp.zeros((1, 10, 7)), jnp.zeros(1), {"goal": goal, "images": images})
    assert count(whole) == pytest.approx(740.7e6, abs=0.1e6)
    assert count(whole["cameras"]) == 2 * one


def torch_state(depth, seed):
    """A state dict with torchvision's names and shapes, written down apart from the network."""
    rng, state = np.random.default_rng(seed), {}
    conv = lambda *shape: rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))  # noqa: E731

    def norm(name, n):
        state[f"{name}.weight"], state[f"{name}.bias"] = rng.uniform(0.5, 1, n), 0.2 * rng.standard_normal(n)
        state[f"{name}.running_mean"] = 0.2 * rng.standard_normal(n)
        state[f"{name}.running_var"] = rng.uniform(0.5, 2, n)
        state[f"{name}.num_batches_tracked"] = np.zeros(())

    state["conv1.weight"] = conv(64, 3, 7, 7)
    norm("bn1", 64)
    channels, expansion = 64, 1 if depth == 18 else 4
    for layer, blocks in enumerate({18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth]):
        width = 64 * 2**layer
        for block in range(blocks):
            at = f"layer{layer + 1}.{block}"
            sizes = [(width, channels, 3, 3), (width, width, 3, 3)]
            if depth == 50:
                sizes = [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            for i, size in enumerate(sizes, 1):
                state[f"{at}.conv{i}.weight"] = conv(*size)
                norm(f"{at}.bn{i}", size[0])
            if block == 0 and (layer > 0 or expansion > 1):
                state[f"{at}.downsample.0.weight"] = conv(expansion * width, channels, 1, 1)
                norm(f"{at}.downsample.1", expansion * width)
            channels = expansion * width
    state["fc.weight"], state["fc.bias"] = conv(10, channels), np.zeros(10)
    return {name: value.astype(np.float32) for name, value in state.items()}


def numpy_forward(state, depth, images, film):
    """torchvision's forward pass in numpy, channels first; ``film``: gammas and betas of each of 4 stages."""

    def windows(x, size, stride, pad, value=0.0):
        x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=value)
        views = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        return views[:, :, ::stride, ::stride]

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        seen = windows(x, weight.shape[2], stride, weight.shape[2] // 2)
        return np.einsum("nchwij,ocij->nohw", seen, weight, optimize=True)

    def norm(x, name):
        part = lambda key: state[f"{name}.{key}"][:, None, None]  # noqa: E731
        unit = (x - part("running_mean")) / np.sqrt(part("running_var") + 1e-5)
        return unit * part("weight") + part("bias")

    def block(x, at, stride):
        y = x
        last, strided = (2, 1) if depth == 18 else (3, 2)
        for i in range(1, last + 1):
            y = norm(conv(y, f"{at}.conv{i}", stride if i == strided else 1), f"{at}.bn{i}")
            y = np.maximum(y, 0) if i < last else y
        if f"{at}.downsample.0.weight" in state:
            x = norm(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
        return np.maximum(x + y, 0)

    h = np.maximum(norm(conv(images.transpose(0, 3, 1, 2), "conv1", 2), "bn1"), 0)
    h = windows(h, 3, 2, 1, -np.inf).max(axis=(4, 5))
    for layer, (gamma, beta) in enumerate(film, 1):
        blocks = sum(name.startswith(f"layer{layer}.") and ".bn1.weight" in name for name in state)
        for index in range(blocks):
            h = block(h, f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1)
        h = (1 + gamma[:, :, None, None]) * h + beta[:, :, None, None]
    return h.mean(axis=(2, 3))


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_weights_give_what_numpy_computes(depth):
    """An odd size, random moments, and FiLM of a random goal."""
    state, model = torch_state(depth, 3), FilmResNet(depth, "frozen")
    images, goal = normal(0, 2, 33, 44, 3), normal(1, 2, 5)
    params = with_torchvision(filled(shapes_of(model, images, goal)), state)
    film = []
    for stage in range(1, 5):
        params[f"film{stage}"] = jax.tree.map(lambda w: 0.3 * w, params[f"film{stage}"])
        both = np.asarray(goal) @ params[f"film{stage}"]["kernel"] + params[f"film{stage}"]["bias"]
        film.append(np.split(both, 2, axis=1))
    expected = numpy_forward(state, depth, np.asarray(images), film)
    found = jax.jit(lambda p, x, g: model.apply({"params": p}, x, g))(params, images, goal)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert found.shape == (2, 512 if depth == 18 else 2048)


def test_weights_of_another_network_are_refused():
    images, state = jnp.zeros((1, 32, 32, 3)), torch_state(18, 0)
    frozen = filled(shapes_of(FilmResNet(18, "frozen"), images))
    with pytest.raises(ValueError, match=r"tensors: got 'none named layer2.0.bn1.weight'"):
        with_torchvision(frozen, {k: v for k, v in state.items() if k != "layer2.0.bn1.weight"})
    with pytest.raises(ValueError, match=r"tensors: got \['layer1.2.conv1.weight'\]"):
        with_torchvision(frozen, state | {"layer1.2.conv1.weight": np.zeros((64, 64, 3, 3))})
    with pytest.raises(ValueError, match=r"conv1.weight: got \(5, 5, 3, 64\), allowed: \(7, 7, 3, 64\)"):
        with_torchvision(frozen, state | {"conv1.weight": np.zeros((64, 3, 5, 5))})
    with pytest.raises(ValueError, match="norm='frozen'"):
        with_torchvision(filled(shapes_of(FilmResNet(18), images)), state)


# -- one encoder --------------------------------------------------------------------------------------------


@functools.cache
def encoder():
    """ResNet-18 with group norms: parameters with FiLM as it is at first, random ones, a jitted call."""
    model, arguments = FilmResNet(18), (normal(0, 3, 32, 32, 3), normal(1, 3, 4))
    is_film = lambda name: name.startswith("film")  # noqa: E731

    def init_film(key):  # little is compiled where little is asked for
        return {name: leaf for name, leaf in model.init(key, *arguments)["params"].items() if is_film(name)}

    params = filled(shapes_of(model, *arguments))
    first = params | jax.jit(init_film)(jax.random.key(0))
    return first, params, jax.jit(lambda p, x, g: model.apply({"params": p}, x, g))


def test_film_is_the_identity_at_first_then_scales_and_shifts():
    """The last stage's exactly: the mean over pixels is linear. A factor of zero forgets the image."""
    params, _, run = encoder()
    images, goal = normal(0, 3, 32, 32, 3), normal(1, 3, 4)
    bare = {name: leaf for name, leaf in params.items() if not name.startswith("film")}
    assert len(params) - len(bare) == 4
    plain = run(bare, images, None)
    assert float(jnp.abs(plain).max()) > 0.1
    np.testing.assert_array_equal(run(params, images, goal), plain)

    last = {"kernel": 0.1 * normal(2, 4, 1024), "bias": 0.1 * normal(3, 1024)}
    gamma, beta = np.split(np.asarray(goal @ last["kernel"] + last["bias"]), 2, axis=1)
    found = run(params | {"film4": last}, images, goal)
    np.testing.assert_allclose(found, (1 + gamma) * plain + beta, atol=1e-5)
    for stage in range(1, 5):
        name, width = f"film{stage}", 32 * 2**stage
        silent = params[name] | {"bias": jnp.concatenate([-jnp.ones(width), jnp.ones(width)])}
        found = run(params | {name: silent}, images, goal)
        np.testing.assert_allclose(found[1:], found[:2], atol=1e-5)


def test_each_image_is_encoded_on_its_own():
    _, params, run = encoder()
    images, goal = normal(0, 3, 32, 32, 3), normal(1, 3, 4)
    together = run(params, images, goal)
    changed = run(params, images.at[1].add(1.0), goal.at[2].add(1.0))
    moved = np.abs(changed - together).max(axis=1)
    assert moved[0] == 0
    assert min(moved[1:]) > 1e-3


def test_group_norms_forget_the_size_of_numbers():
    """The first convolution has no bias: features are the same whatever unit pixels have."""
    _, params, run = encoder()
    images, goal = normal(0, 3, 32, 32, 3), normal(1, 3, 4)
    found = run(params, 10 * images, goal)
    np.testing.assert_allclose(found, run(params, images, goal), atol=1e-3 * float(jnp.abs(found).max()))


def test_half_precision_is_close():
    _, params, run = encoder()
    images, goal = normal(0, 3, 32, 32, 3), normal(1, 3, 4)
    half = FilmResNet(18, dtype=jnp.bfloat16)
    found = jax.jit(lambda p, x, g: half.apply({"params": p}, x, g))(params, images, goal)
    expected = np.asarray(run(params, images, goal))
    assert found.dtype == jnp.float32
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * np.sqrt(np.mean(expected**2))


def test_a_block_is_the_same_compiled_or_not():
    block, x = EncoderBlock(4, 2, True, "frozen"), normal(0, 2, 6, 6, 8)
    run, params = lambda p: block.apply({"params": p}, x), filled(shapes_of(block, x))
    with jax.disable_jit():
        found = run(params)
    np.testing.assert_allclose(found, jax.jit(run)(params), atol=1e-5)
    assert found.shape == (2, 3, 3, 16)


def test_images_are_normalised_by_colour():
    bytes_ = np.asarray([[[0, 128, 255]], [[51, 51, 51]]], np.uint8)
    expected = (bytes_ / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalise_images(bytes_), expected, atol=1e-6)
    np.testing.assert_allclose(normalise_images(bytes_ / 127.5 - 1), expected, atol=1e-6)
    unit = normalise_images(jnp.asarray(bytes_), (0.5,) * 3, (0.5,) * 3)
    np.testing.assert_allclose(unit, bytes_ / 127.5 - 1, atol=1e-6)
    assert unit.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"images.dtype: got 'int32', allowed: uint8 or floats"):
        normalise_images(bytes_.astype(np.int32))
    with pytest.raises(ValueError, match=r"images.shape: got \(2, 1\)"):
        normalise_images(bytes_[..., 0])


# -- cameras as tokens --------------------------------------------------------------------------------------


def told(batch, steps=2):
    """Two cameras, the wrist's first in the mapping and last in the order of names."""
    images = {"wrist": normal(2, batch, steps, 32, 32, 3), "front": normal(3, batch, steps, 32, 40, 3)}
    seen = {"proprio": normal(5, batch, steps, 3), "observation": normal(6, batch, steps, 1, 6)}
    return {"goal": normal(4, batch, 4), **seen, "images": images}


@functools.cache
def policy():
    """A network over two cameras, random parameters, its jitted call and encoding."""
    model = ActionTransformer(**SMALL)
    params = filled(shapes_of(model, jnp.zeros((3, 5, 3)), jnp.zeros(3), told(3)))
    run = jax.jit(lambda p, x, t, c: model.apply({"params": p}, x, t, c))
    encode = jax.jit(lambda p, c: model.apply({"params": p}, c, method="encode"))
    return model, params, run, encode


def test_other_parameters_are_those_of_a_network_without_cameras():
    model, arguments = policy()[0], (jnp.zeros((3, 5, 3)), jnp.zeros(3))
    without = {name: value for name, value in told(3).items() if name != "images"}
    plain, whole = shapes_of(model, *arguments, without), dict(policy()[1])
    cameras, tokens = whole.pop("cameras"), dict(whole.pop("tokens"))
    assert set(cameras) == {"front", "wrist"}
    for name in cameras:
        assert tokens.pop(f"image_{name}")["kernel"].shape == (512, 16)
    shape = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
    assert shape(whole | {"tokens": tokens}) == shape(plain)


def test_tokens_stand_in_the_order_of_steps_then_names():
    """Against the linear maps of features, position by position, before any block."""
    model, params, _, encode = policy()
    cond = encode(params, told(3))
    x = normal(0, 3, 5, 3)
    found = model.apply({"params": params}, x, cond, method=lambda net, x, cond: net.tokens(x, cond))
    weights, seen = params["tokens"], cond["images"]
    assert found.shape == (3, 1 + 2 * 4 + 5, 16)
    for step, (index, name) in itertools.product(range(2), enumerate(("front", "wrist"))):
        expected = seen[name][:, step] @ weights[f"image_{name}"]["kernel"] + weights["positions"][1 + step]
        np.testing.assert_allclose(found[:, 1 + 4 * step + 2 + index], expected, atol=1e-4)


def test_a_change_of_an_image_reaches_its_token_and_those_after():
    """Of camera, step and sample alone in the features; in the tokens the past is as before."""
    model, params, _, encode = policy()
    cond = told(3)
    before = encode(params, cond)
    images = cond["images"]["front"].at[1, 1].add(normal(9, 32, 40, 3))
    after = encode(params, cond | {"images": cond["images"] | {"front": images}})
    np.testing.assert_array_equal(after["images"]["wrist"], before["images"]["wrist"])
    moved = np.abs(after["images"]["front"] - before["images"]["front"]).max(axis=2) > 1e-3
    np.testing.assert_array_equal(moved, [[False, False], [False, True], [False, False]])

    keep = jax.jit(lambda c: apply_keeping(model, params, normal(0, 3, 5, 3), normal(1, 3), c))
    (out, kept), (out2, kept2) = keep(before), keep(after)
    token = 2 + 4 + 2  # noise, goal, a step of four tokens, the second step's proprioception and observation
    changed = np.abs(kept2["hidden0"] - kept["hidden0"])[1].max(axis=1) > 1e-5
    np.testing.assert_array_equal(changed, np.arange(len(changed)) >= token)
    moved = np.abs(out2 - out).max(axis=2)
    assert min(moved[1]) > 1e-5
    np.testing.assert_array_equal(moved[[0, 2]], 0)


def test_encoded_once_with_experts_chosen_once_or_at_every_call():
    model, params, run, encode = policy()
    x, time, cond = normal(0, 3, 5, 3), jnp.full(3, 0.4), told(3)
    features = encode(params, cond)
    mixed = features["images"] | {"wrist": cond["images"]["wrist"]}  # images beside features
    expected = run(params, x, time, cond | {"images": mixed})
    cache = build_cache(model, params, jnp.asarray([0.4, -0.3]))
    found = jax.jit(apply_cached(model))(cache, x, time, features)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_encoders_do_not_know_a_dropped_goal():
    _, params, _, encode = policy()
    cond = told(3)
    dropped = {"unconditional": jnp.asarray([True, False, False])}
    some = encode(params, cond)["images"] | {"wrist": cond["images"]["wrist"]}
    found = encode(params, cond | dropped | {"images": some})["images"]["wrist"]
    plain, without = (encode(params, c)["images"]["wrist"] for c in (cond, cond | {"goal": 0 * cond["goal"]}))
    np.testing.assert_allclose(found[1:], plain[1:], atol=1e-4)
    np.testing.assert_allclose(found[0], without[0], atol=1e-4)
    assert float(jnp.abs(found[0] - plain[0]).max()) > 1e-2


def test_a_sampler_draws_under_images():
    """Through the library's own denoiser and sampler, on features."""
    _, params, run, encode = policy()
    process = EDM(t_min=0.001, t_max=80.0)
    denoise = bind(run, params, process=process, output="F", sigma_data=0.5, time_input="c_noise")
    grid, cond = grids.log_snr(process, 3, final="zero"), told(3)
    keys = jax.random.split(jax.random.key(7), 3)
    draw = lambda c: sample(keys, denoise, process, ddim(), grid, shape=(5, 3), cond=c).x  # noqa: E731
    drawn = jax.jit(draw)(encode(params, cond))
    turned = cond["images"] | {"front": cond["images"]["front"][:, :, ::-1]}
    other = jax.jit(draw)(encode(params, cond | {"images": turned}))
    assert bool(jnp.isfinite(drawn).all())
    assert float(jnp.abs(drawn - other).min(axis=(1, 2)).max()) > 1e-5


def test_guidance_and_dropped_labels_take_mappings_of_images():
    """An estimate that is the brightness of images, or nothing: guidance of scale 3 makes three of one."""
    cond = {"images": {"front": normal(1, 4, 2, 8, 8, 3)}}
    bright = cond["images"]["front"].mean(axis=(1, 2, 3, 4))

    def denoise(x, t, cond):
        seen = cond["images"]["front"].mean(axis=(1, 2, 3, 4))
        return jnp.where(cond["unconditional"], 0.0, seen)[:, None]

    found = classifier_free(3.0)(denoise)(jnp.zeros((4, 1)), jnp.ones(4), cond)
    np.testing.assert_allclose(found[:, 0], 3 * bright, rtol=1e-5)
    assert drop_labels(jax.random.key(0), cond, 0.5)["unconditional"].shape == (4,)


def test_training_reaches_every_weight_of_an_encoder_but_frozen_moments():
    """Through the tokens, with FiLM as it is at first: the goal's maps are zero then, and learn."""
    model = ActionTransformer(**SMALL, image_norm="frozen")
    x, time = normal(0, 4, 5, 3), normal(1, 4)
    cond = {"goal": normal(4, 4, 4), "images": {"front": normal(2, 4, 1, 32, 32, 3)}}
    shapes = shapes_of(model, x, time, cond)
    params = filled(shapes)
    film = {name: leaf for name, leaf in encoder()[0].items() if name.startswith("film")}
    params["cameras"]["front"] |= film

    def loss(params):
        return jnp.sum(
            model.apply({"params": params}, method=lambda net: net.tokens(x, net.encode(cond))) ** 2
        )

    slopes = jax.jit(jax.grad(loss))(params)
    learning = traverse_util.flatten_dict({name: slopes[name] for name in ("cameras", "tokens")})
    still = {name for name, leaf in learning.items() if not np.any(leaf)}
    moments = {name for name in learning if name[-1] in ("mean", "var")}
    assert all(np.isfinite(leaf).all() for leaf in learning.values())
    assert len(moments) == 2 * 20
    assert still == moments


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        (
            {"image_encoder": "resnet34"},
            {},
            "image_encoder: got 'resnet34', allowed: one of resnet18, resnet50",
        ),
        ({"image_norm": "batch"}, {}, "image_norm: got 'batch', allowed: one of frozen, group"),
        ({}, {}, r"cond\['images'\]: got 'dict', allowed: a mapping from one camera"),
        ({}, jnp.zeros((2, 1, 32, 32, 3)), r"cond\['images'\]: got '\w+', allowed: a mapping"),
        (
            {},
            {"a": jnp.zeros((2, 32, 32, 3))},
            r"cond\['images'\]\['a'\].shape: got \(2, 32, 32, 3\), allowed: ",
        ),
        (
            {},
            {"a": jnp.zeros((2, 1, 32, 32, 4))},
            r"\['a'\].shape: got \(2, 1, 32, 32, 4\), allowed: \(b, steps",
        ),
        ({}, {"a": jnp.zeros((2, 1, 32, 31, 3))}, "32, 31, 3.*, allowed: .*h and w of 32 or more"),
        ({}, {"a": jnp.zeros((2, 1, 32, 32, 3), jnp.uint8)}, r"\['a'\].dtype: got 'uint8', allowed: floats"),
        ({}, {"a": jnp.zeros((3, 1, 32, 32, 3))}, r"batch and steps: got \(3, 1\), allowed: \(2, 1\)"),
        ({}, {"a": jnp.zeros((2, 2, 32, 32, 3))}, r"batch and steps: got \(2, 2\), allowed: \(2, 1\)"),
        ({}, {"a": jnp.zeros((2, 3, 512))}, r"\['a'\]: batch and steps: got \(2, 3\), allowed: \(2, 1\)"),
    ],
)
def test_wrong_images_and_options(options, images, message):
    model = ActionTransformer(**{**SMALL, **options})
    cond = {"proprio": jnp.zeros((2, 1, 3)), "images": images}
    with pytest.raises(ValueError, match=message):
        shapes_of(model, jnp.zeros((2, 5, 3)), jnp.zeros(2), cond)


@pytest.mark.parametrize(
    ("options", "shape", "goal", "message"),
    [
        ({"depth": 34}, (2, 32, 32, 3), None, "depth: got 34, allowed: 18 or 50"),
        ({"norm": "layer"}, (2, 32, 32, 3), None, "norm: got 'layer', allowed: one of frozen, group"),
        ({}, (2, 32, 32, 1), None, r"images.shape: got \(2, 32, 32, 1\), allowed: \(b, h, w, 3\)"),
        ({}, (2, 16, 32, 3), None, r"images.shape: got \(2, 16, 32, 3\)"),
        ({}, (2, 32, 32, 3), (3, 4), r"goal.shape: got \(3, 4\), allowed: \(2, numbers\)"),
    ],
)
def test_wrong_arguments_of_an_encoder(options, shape, goal, message):
    goal = None if goal is None else jnp.zeros(goal)
    with pytest.raises(ValueError, match=message):
        shapes_of(FilmResNet(**options), jnp.zeros(shape), goal)


# -- random shifts ------------------------------------------------------------------------------------------


def position_image(*leading, size=(9, 11)):
    """Pixels that say where they are, the same for every leading index but for a constant."""
    image = np.stack([*np.indices(size), np.zeros(size, int)], axis=-1)
    extra = np.arange(math.prod(leading)).reshape(*leading, 1, 1, 1)
    return (image + 100 * extra).astype(np.int16)


def test_a_shift_is_a_crop_of_the_padded_image_the_same_in_all_steps_and_fields():
    pad = 3
    item = {"image": position_image(2), "wrist": position_image(2, size=(7, 5)), "action": np.arange(4)}
    found = []
    for seed in range(40):
        out = random_shift(pad, ("image", "wrist"))(item, np.random.default_rng(seed))
        padded = np.pad(item["image"], [(0, 0), (pad, pad), (pad, pad), (0, 0)], mode="edge")
        small = np.pad(item["wrist"], [(0, 0), (pad, pad), (pad, pad), (0, 0)], mode="edge")
        fits = [
            (i, j)
            for i, j in itertools.product(range(2 * pad + 1), repeat=2)
            if np.array_equal(out["image"], padded[:, i : i + 9, j : j + 11])
        ]
        assert len(fits) == 1
        i, j = fits[0]
        np.testing.assert_array_equal(out["wrist"], small[:, i : i + 7, j : j + 5])
        assert out["action"] is item["action"]
        assert out["image"].dtype == np.int16
        found += fits
    assert len(set(found)) > 15
    np.testing.assert_array_equal(item["image"], position_image(2))


def test_shifts_are_even_over_all_places():
    augment, rng, image = random_shift(2), np.random.default_rng(0), {"image": position_image()}
    seen = Counter(tuple(augment(image, rng)["image"][4, 4, :2].tolist()) for _ in range(5000))
    assert set(seen) == set(itertools.product(range(2, 7), repeat=2))
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_no_pad_is_the_identity_and_a_wide_one_allowed():
    item = {"image": position_image(2, 3)}
    np.testing.assert_array_equal(random_shift(0)(item, np.random.default_rng(0))["image"], item["image"])
    assert random_shift(30)(item, np.random.default_rng(0))["image"].shape == item["image"].shape
    with pytest.raises(ValueError, match="pad: got -1, allowed: an integer >= 0"):
        random_shift(-1)


def test_a_pipeline_shifts_each_item_alike_whoever_reads_it():
    images = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
    augment = pickle.loads(pickle.dumps(random_shift(2)))

    def read(count, index, threads=0):
        options = {"augment": augment, "shard_index": index, "shard_count": count, "threads": threads}
        with pipeline(ArraySource(images, np.arange(24)), 12 // count, 5, **options) as batches:
            return [next(batches) for _ in range(4)]

    whole, halves = read(1, 0, threads=2), [read(2, index) for index in range(2)]
    for step, batch in enumerate(whole):
        joined = np.concatenate([half[step]["image"] for half in halves])
        np.testing.assert_array_equal(batch["image"], joined)
    first, second = (
        {int(n): x for b in part for n, x in zip(b["label"], b["image"])} for part in (whole[:2], whole[2:])
    )
    assert sum(not np.array_equal(first[n], second[n]) for n in range(24)) > 15
