"""Decoders of another library give its logits and its text here, on numbers that it produced (see peers/)."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle.peers.make_transformers_decoders import CASES, random_weights, tokens

from diffax.io import write_json
from diffax.io.decoder_files import read_decoder
from diffax.io.weights import write_tensors
from diffax.models.decoder_lm import DecoderLM, empty_cache
from diffax.models.generation import generate

PEER = np.load(Path(__file__).parent / "peers" / "transformers_decoders.npz")
SHAPES = json.loads(str(PEER["meta"]))["shapes"]


def store(folder, name):
    """A checkpoint as transformers would leave it."""
    write_json(folder / "config.json", CASES[name])
    write_tensors(folder / "model.safetensors", random_weights(SHAPES[name]), {"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=CASES)
def stored(request, tmp_path_factory):
    """A case, our network of it, and its parameters."""
    folder = store(tmp_path_factory.mktemp("decoder"), request.param)
    config, params = read_decoder(folder)
    return request.param, DecoderLM(config), params


def test_logits_are_the_peers(stored):
    name, model, params = stored
    ours = jax.jit(model.apply)({"params": params}, tokens(name))[:, ::3]
    np.testing.assert_allclose(ours, PEER[name], rtol=0, atol=2e-5 * np.abs(PEER[name]).max())


def test_greedy_text_is_the_peers_in_one_loop(stored):
    name, model, params = stored
    said = jax.jit(partial(generate, model, steps=16, end=60))(params, prompt=tokens(name)[:, :10])
    theirs = PEER[f"{name}/greedy"]
    for ours, expected in zip(np.asarray(said), theirs, strict=True):
        length = int(np.argmax(expected == 60)) + 1 if (expected == 60).any() else len(expected)
        np.testing.assert_array_equal(ours[:length], expected[:length])


def test_a_cache_and_padding_change_nothing(stored):
    """In pieces, and behind padding on the left of different lengths."""
    name, model, params = stored
    text, config = jnp.asarray(tokens(name)), model.config
    read = jax.jit(model.apply)
    extend = jax.jit(partial(model.apply, method="extend"))
    whole = np.asarray(read({"params": params}, text))
    slack = 2e-5 * np.abs(whole).max()
    start = jnp.array([0, 5])
    padded = jnp.stack([jnp.pad(text[0], (0, 5)), jnp.pad(text[1], (5, 0))])
    found = np.asarray(read({"params": params}, padded, start))
    np.testing.assert_allclose(found[0, :40], whole[0], atol=slack)
    np.testing.assert_allclose(found[1, 5:], whole[1], atol=slack)
    cache, pieces = empty_cache(config, 2, 48, start), []
    for begin, end in ((0, 20), (20, 21), (21, 45)):
        logits, cache = extend({"params": params}, padded[:, begin:end], cache)
        pieces.append(logits)
    pieced = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(pieced[0, :40], whole[0], atol=slack)
    np.testing.assert_allclose(pieced[1, 5:], whole[1], atol=slack)
