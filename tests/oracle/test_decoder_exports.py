"""Compact checkpoints mean the same here and in transformers, on numbers that it produced (see peers/)."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle.peers.make_compact_decoders import CASES, REMOTE, weights_of
from oracle.peers.make_transformers_decoders import tokens

from diffax.io import write_json
from diffax.io.decoder_files import read_decoder
from diffax.io.decoder_writer import write_decoder
from diffax.io.weights import read_tensors, write_tensors
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import generate

PEER = np.load(Path(__file__).parent / "peers" / "compact_decoders.npz")
SHAPES = json.loads(str(PEER["meta"]))["shapes"]


def weights(name):
    return weights_of(name, {one: tuple(shape) for one, shape in SHAPES[name].items()})


@pytest.fixture(scope="module", params=CASES)
def stored(request, tmp_path_factory):
    """A case and its checkpoint."""
    folder = tmp_path_factory.mktemp("compact")
    write_json(folder / "config.json", CASES[request.param])
    write_tensors(folder / "model.safetensors", weights(request.param), {"format": "pt"})
    return request.param, folder


def test_logits_are_those_of_transformers(stored):
    name, folder = stored
    config, params = read_decoder(folder)
    ours = jax.jit(DecoderLM(config).apply)({"params": params}, jnp.asarray(tokens(name)))[:, ::3]
    for theirs in (PEER[name], PEER[f"{name}/padded"]):  # the latter behind tokens that are none
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_greedy_text_is_that_of_transformers_with_and_without_a_cache(stored):
    name, folder = stored
    config, params = read_decoder(folder)
    said = jax.jit(partial(generate, DecoderLM(config), steps=16, end=60))(
        params, prompt=jnp.asarray(tokens(name)[:, :10])
    )
    for kind in ("greedy", "greedy_uncached"):
        for ours, theirs in zip(np.asarray(said), PEER[f"{name}/{kind}"], strict=True):
            length = int(np.argmax(theirs == 60)) + 1 if (theirs == 60).any() else len(theirs)
            np.testing.assert_array_equal(ours[:length], theirs[:length])


def test_what_is_written_is_what_transformers_read(stored, tmp_path):
    """Names, shapes and bytes of all tensors, the fields of config.json, and the file that runs them."""
    name, folder = stored
    config, params = read_decoder(folder)
    stock = {k: v for k, v in CASES[name].items() if k not in ("auto_map", "layers", "architectures")}
    stock["model_type"] = config.family
    write_decoder(tmp_path / "out", config, params, stock)
    ours, theirs = read_tensors(tmp_path / "out" / "model.safetensors")[0], weights(name)
    assert ours.keys() == theirs.keys()
    for one, value in theirs.items():
        assert ours[one].dtype == value.dtype
        np.testing.assert_array_equal(ours[one], value, err_msg=one)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CASES[name]
    assert (tmp_path / "out" / REMOTE.name).read_bytes() == REMOTE.read_bytes()
