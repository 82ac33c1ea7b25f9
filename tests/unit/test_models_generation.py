"""Text from decoders: drawn by the softmax, cut to the likeliest, the same in any batch."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from diffax.models.decoder_lm import DecoderConfig, DecoderLM, Layer, Rope, uniform_layers
from diffax.models.generation import Choice, generate

CONFIG = DecoderConfig(17, 16, 4, 2, 4, uniform_layers(2, 24, 4), positions=32)
MODEL = DecoderLM(CONFIG)


@pytest.fixture(scope="module")
def params():
    """Weights large enough for the likeliest tokens to differ."""
    found = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))["params"]
    return jax.tree.map(lambda p: 3 * p, found)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


# -- a choice -----------------------------------------------------------------------------------------------

LOGITS = jnp.log(jnp.array([0.4, 0.05, 0.3, 0.25]))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(1.0), [0.4, 0.05, 0.3, 0.25]),
        (Choice(0.5), np.square([0.4, 0.05, 0.3, 0.25]) / 0.315),
        (Choice(1.0, top_k=2), [4 / 7, 0, 3 / 7, 0]),
        (Choice(1.0, top_p=0.69), [4 / 7, 0, 3 / 7, 0]),
        (Choice(1.0, top_p=0.71), [40 / 95, 0, 30 / 95, 25 / 95]),
        (Choice(1.0, top_k=3, top_p=0.4), [1, 0, 0, 0]),
    ],
)
def test_draws_follow_the_softmax_of_those_that_are_kept(choice, expected):
    n = 4000
    drawn = jax.jit(choice.__call__)(jnp.broadcast_to(LOGITS, (n, 4)), keys(n))
    counts, expected = np.bincount(drawn, minlength=4), n * np.asarray(expected)
    assert not counts[expected == 0].any()
    if (expected > 0).sum() > 1:
        assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_a_temperature_of_zero_is_the_likeliest():
    assert Choice()(LOGITS[None], keys(1)).tolist() == [0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(-1.0), "temperature: got -1"),
        (Choice(1.0, -1), "top_k: got -1"),
        (Choice(1.0, 0, 0.0), r"top_p: got 0\.0"),
    ],
)
def test_choices_are_checked(choice, message, params):
    with pytest.raises(ValueError, match=message):
        generate(MODEL, params, jnp.zeros((1, 2), jnp.int32), 2, choice=choice, keys=keys(1))


# -- a text -------------------------------------------------------------------------------------------------


def test_text_is_that_of_one_token_after_another(params):
    """Against the whole network at every step, without a cache."""
    text = jnp.array([[1, 5, 3]])
    found = jax.jit(partial(generate, MODEL, steps=12))(params, prompt=text)
    run, text = jax.jit(MODEL.apply), jnp.pad(text, ((0, 0), (0, 12)))
    for place in range(3, 15):  # what stands to the right is not seen
        text = text.at[:, place].set(jnp.argmax(run({"params": params}, text)[:, place - 1], axis=-1))
    np.testing.assert_array_equal(found, text[:, 3:])
    assert len(set(np.asarray(found)[0].tolist())) > 2


def test_a_row_depends_on_its_prompt_and_key_alone(params):
    prompts = jnp.array([[0, 0, 7, 2], [4, 4, 1, 9], [0, 3, 3, 8]])
    start, some = jnp.array([2, 0, 1]), keys(3)
    run = jax.jit(partial(generate, MODEL, steps=9, choice=Choice(1.0)))
    whole = run(params, prompt=prompts, start=start, keys=some)
    for row, begin in enumerate(start.tolist()):
        alone = run(params, prompt=prompts[row : row + 1, begin:], keys=some[row : row + 1])
        np.testing.assert_array_equal(alone[0], whole[row])
    other = run(params, prompt=prompts, start=start, keys=keys(3, 1))
    assert not np.array_equal(other, whole)


def test_a_text_that_is_over_stays_so(params):
    prompts = jax.random.randint(jax.random.key(3), (6, 4), 0, 17)
    free = np.asarray(generate(MODEL, params, prompts, 20, keys=keys(6), choice=Choice(1.0)))
    end = int(free[0, 4])
    found = np.asarray(generate(MODEL, params, prompts, 20, keys=keys(6), choice=Choice(1.0), end=end))
    for ours, theirs in zip(found, free, strict=True):
        length = int(np.argmax(theirs == end)) + 1 if (theirs == end).any() else 20
        np.testing.assert_array_equal(ours[:length], theirs[:length])
        assert (ours[length:] == end).all()


def test_texts_that_are_too_long_are_refused(params):
    with pytest.raises(ValueError, match="columns: got 33, allowed: at most 32"):
        generate(MODEL, params, jnp.zeros((1, 3), jnp.int32), 30)
    with pytest.raises(ValueError, match="keys: got None"):
        generate(MODEL, params, jnp.zeros((1, 3), jnp.int32), 3, choice=Choice(1.0))


# -- a decoder ----------------------------------------------------------------------------------------------


def test_pairs_keep_their_frequencies():
    """A layer with some of the pairs is the whole one with zeros for the others."""
    few = Layer(24, 2, 4, ((1,), (0,)))
    small = DecoderLM(DecoderConfig(17, 16, 4, 2, 4, (few,), positions=32))
    big = DecoderLM(DecoderConfig(17, 16, 4, 2, 4, uniform_layers(1, 24, 4), positions=32))
    text = jax.random.randint(jax.random.key(1), (2, 11), 0, 17)
    params = jax.tree.map(lambda p: 3 * p, jax.jit(small.init)(jax.random.key(0), text)["params"])
    padded = jax.tree.map(lambda p: p, params)
    for name, count in (("query", 4), ("key", 2)):
        kernel = np.zeros((16, count, 4), np.float32)
        given = np.asarray(params["layers_0"][name]["kernel"]).reshape(16, count, 2)
        for head in range(count):
            pair = few.pairs[head // (count // 2)][0]
            kernel[:, head, [pair, pair + 2]] = given[:, head]
        padded["layers_0"][name] = {"kernel": jnp.asarray(kernel.reshape(16, -1))}
    ours, expected = (jax.jit(m.apply)({"params": p}, text) for m, p in ((small, params), (big, padded)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "kv_heads: got 3, allowed: a divisor of 4 heads"),
        ({"family": "gpt"}, "family: got 'gpt'"),
        ({"layers": ()}, "layers: got 0"),
        ({"layers": (Layer(24, 3, 4),)}, r"layers\[0\]\.keys: got 3, allowed: an even number up to 4"),
        ({"layers": (Layer(24, 2, 4),)}, r"layers\[0\]\.pairs"),
        ({"layers": (Layer(24, 2, 4, ((0,), (2,))),)}, r"layers\[0\]\.pairs"),
        ({"layers": (Layer(0, 4, 4),)}, r"layers\[0\]: got \(0, 4, 4\)"),
        ({"rope": Rope(kind="yarn")}, "rope.kind: got 'yarn'"),
        ({"activation": "swish"}, "activation: got 'swish'"),
    ],
)
def test_configurations_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes).check()
