"""Checkpoints that we write give the same numbers in transformers: stored, and live where it is there."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from oracle.peers import make_compact_decoders as peer
from oracle.peers.make_transformers_decoders import tokens

from diffax.io.decoder_config import parse_config
from diffax.io.decoder_files import read_decoder
from diffax.io.decoder_writer import pad_decoder, write_decoder
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import generate

STORED = np.load(peer.STORED)


@pytest.fixture(scope="module", params=peer.CASES)
def case(request):
    """Its name, configuration, parameters, the fields of its config.json, and our logits."""
    config, params, fields = peer.build(request.param)
    ours = jax.jit(DecoderLM(config).apply)({"params": params}, tokens(request.param))
    return request.param, config, params, fields, np.asarray(ours)


def greedy(config, params, name):
    """Our text, as transformers ends it: padding after the end."""
    said = np.asarray(
        jax.jit(partial(generate, DecoderLM(config), steps=16, end=60))(params, prompt=tokens(name)[:, :10])
    )
    ended = np.cumsum(said == 60, axis=1) - (said == 60) > 0
    return np.where(ended, 1, said)


def test_numbers_are_of_this_modelling_file():
    """Else run peers/make_compact_decoders.py again."""
    assert json.loads(str(STORED["meta"]))["digest"] == peer.digest()


def test_compact_logits_and_text_are_those_of_transformers(case):
    name, config, params, _, ours = case
    np.testing.assert_allclose(ours[:, ::3], STORED[name], rtol=0, atol=2e-5 * np.abs(ours).max())
    theirs = STORED[f"{name}/greedy"]
    np.testing.assert_array_equal(greedy(config, params, name)[:, : theirs.shape[1]], theirs)


def test_padded_logits_are_those_of_transformers(case):
    """The padded form is a whole model, for which test_decoder_peers holds."""
    name, config, params, fields, ours = case
    whole = parse_config(fields, name)
    if config.layers[0].stream:
        with pytest.raises(ValueError, match="form: got 'padded', allowed: compact"):
            pad_decoder(config, params, whole)
        return
    found = jax.jit(DecoderLM(whole).apply)({"params": pad_decoder(config, params, whole)}, tokens(name))
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize("form", ["compact", "padded"])
def test_transformers_loads_what_we_write(case, form, tmp_path):
    """Logits, streams, text with a cache and without, and what it saves in turn."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    name, config, params, fields, ours = case
    if config.layers[0].stream and form == "padded":
        pytest.skip("no padded form")
    folder = tmp_path / name
    write_decoder(folder, config, params, fields, form)
    model = peer.load(folder)
    slack = 2e-5 * np.abs(ours).max()
    np.testing.assert_allclose(peer.logits(model, name), ours, rtol=0, atol=slack)
    streams = model(torch.from_numpy(tokens(name)), output_hidden_states=True).hidden_states
    assert len(streams) == len(config.layers) + 1
    said = peer.say(model, name)
    np.testing.assert_array_equal(peer.say(model, name, use_cache=False), said)
    np.testing.assert_array_equal(greedy(config, params, name)[:, : said.shape[1]], said)
    again = tmp_path / "again"
    model.save_pretrained(again)
    _, found = read_decoder(again)
    jax.tree.map(np.testing.assert_array_equal, found, read_decoder(folder)[1])
    np.testing.assert_allclose(peer.logits(peer.load(again), name), ours, rtol=0, atol=slack)
