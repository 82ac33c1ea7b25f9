"""Checkpoints of decoders whose layers differ: read back as they were, or padded to whole ones."""

import ast
import json
from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from oracle.peers.make_compact_decoders import CASES, REMOTE, build
from oracle.peers.make_transformers_decoders import tokens

from diffax.io.decoder_config import parse_config, read_fields
from diffax.io.decoder_files import INDEX, read_decoder
from diffax.io.decoder_writer import (
    end_tensors,
    layer_tensors,
    pad_decoder,
    pad_layer,
    whole_config,
    write_about,
    write_decoder,
)
from diffax.io.weights import read_tensors, write_tensors
from diffax.models.decoder_lm import DecoderLM, Layer

PADDABLE = [name for name in CASES if name != "stream"]


def bits(tree):
    return jax.tree.map(lambda leaf: (leaf.dtype.name, leaf.shape, leaf.tobytes()), tree)


@pytest.mark.parametrize("name", CASES)
def test_compact_checkpoints_are_read_back_bit_by_bit(tmp_path, name):
    config, params, fields = build(name)
    for number, given in enumerate((fields, None)):
        write_decoder(tmp_path / str(number), config, params, given)
        same, found = read_decoder(tmp_path / str(number))
        assert same == config
        assert bits(found) == bits(params)
        assert not (tmp_path / str(number) / INDEX).exists()


@pytest.mark.parametrize("name", ["grouped", "one_head_tied_linear", "opt"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_layers_are_the_source_bit_by_bit(tmp_path, name, dtype):
    config, params, fields = build(name, whole=True)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    write_decoder(tmp_path / "source", config, params, fields, "padded")
    assert read_fields(tmp_path / "source") == fields
    content = read_decoder(tmp_path / "source")
    assert content[0] == config
    for form in ("compact", "padded"):
        write_decoder(tmp_path / form, *content, fields, form)
        names = (tmp_path / where / "model.safetensors" for where in ("source", form))
        first, second = (read_tensors(path)[0] for path in names)
        assert bits(first) == bits(second)


@pytest.mark.parametrize("name", PADDABLE)
def test_a_compact_checkpoint_becomes_a_padded_one(tmp_path, name):
    """Read from its folder alone; with the shapes and the config.json of the stock model."""
    config, params, fields = build(name)
    compact, padded = tmp_path / "compact", tmp_path / "padded"
    write_decoder(compact, config, params, fields)
    write_decoder(padded, *read_decoder(compact), read_fields(compact), "padded")
    stock = "OPTForCausalLM" if config.family == "opt" else "LlamaForCausalLM"
    assert read_fields(padded) == {**fields, "architectures": [stock]}
    assert not (padded / REMOTE.name).exists()
    whole, found = read_decoder(padded)
    assert whole == parse_config(fields, name)
    expected = jax.jit(DecoderLM(config).apply)({"params": params}, tokens(name))
    logits = jax.jit(DecoderLM(whole).apply)({"params": found}, tokens(name))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_pairs_and_values_stand_at_their_places():
    """By hand: 4 heads of queries over 2 of keys, 4 pairs, of which (0, 2) and (3, 1) are left."""
    config, params, fields = build("grouped")
    made, whole = params["layers_0"], parse_config(fields, "whole")
    found = pad_layer(config, config.layers[0], made, whole.layers[0])[1]
    places = {"key": ([0, 2, 4, 6], [3, 1, 7, 5]), "query": ([0, 2, 4, 6],) * 2 + ([3, 1, 7, 5],) * 2}
    for name, heads in places.items():
        kernel = found[name]["kernel"].reshape(32, -1, 8)
        short = made[name]["kernel"].reshape(32, -1, 4)
        for head, some in enumerate(heads):
            np.testing.assert_array_equal(kernel[:, head, some], short[:, head])
            assert not np.delete(kernel[:, head], some, axis=1).any()
    out = found["out"]["kernel"].reshape(4, 8, 32)
    np.testing.assert_array_equal(out[:, :5], made["out"]["kernel"].reshape(4, 5, 32))
    assert not out[:, 5:].any()
    assert not found["value"]["kernel"].reshape(32, 2, 8)[:, :, 5:].any()


def test_products_are_multiplied_in_double():
    config, params, fields = build("products")
    found = pad_decoder(config, params, parse_config(fields, "whole"))["layers_0"]
    for name in ("query", "down"):
        first, second = (params["layers_0"][part]["kernel"] for part in (f"{name}_in", name))
        exact = first.astype(np.float64) @ second.astype(np.float64)
        np.testing.assert_array_equal(found[name]["kernel"], exact.astype(np.float32))
    assert set(found) == set(params["layers_1"]) - {"down_in", "query_in"}


def test_weights_of_another_type(tmp_path):
    config, params, fields = build("grouped")
    for key in ("dtype", "torch_dtype"):
        write_decoder(tmp_path / key, config, params, {**fields, key: "float32"}, dtype="bfloat16")
        assert read_fields(tmp_path / key)[key] == "bfloat16"
        same, found = read_decoder(tmp_path / key)
        assert same == config  # pairs stay integers
        assert bits(found) == bits(jax.tree.map(lambda p: p.astype(ml_dtypes.bfloat16), params))
    with pytest.raises(ValueError, match="dtype: got 'int8', allowed: one of bfloat16"):
        write_decoder(tmp_path / "other", config, params, fields, dtype="int8")


def test_what_makes_it_usable_is_beside_it(tmp_path):
    config, params, fields = build("grouped")
    (tmp_path / "source").mkdir()
    for name in ("tokenizer.json", "generation_config.json", "notes.txt"):
        (tmp_path / "source" / name).write_text(name)
    write_decoder(tmp_path / "out", config, params, fields, beside=tmp_path / "source")
    names = {"tokenizer.json", "generation_config.json", "config.json", "model.safetensors", REMOTE.name}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "tokenizer.json"
    assert (tmp_path / "out" / REMOTE.name).read_bytes() == REMOTE.read_bytes()
    about = read_fields(tmp_path / "out")
    assert about["model_type"] == "compact_llama"
    assert about["auto_map"]["AutoModelForCausalLM"] == "modeling_compact.CompactLlamaForCausalLM"


@pytest.mark.parametrize("form", ["compact", "padded"])
def test_layer_by_layer_is_the_same(tmp_path, form):
    """One file a layer and one for the ends, joined by an index."""
    config, params, fields = build("grouped")
    whole, folder = parse_config(fields, "whole"), tmp_path / "several"
    folder.mkdir()
    for number in range(2):
        made = layer_tensors(config, number, params[f"layers_{number}"], form, whole)
        write_tensors(folder / f"model-{number + 1:05}-of-00003.safetensors", made)
    write_tensors(folder / "model-00003-of-00003.safetensors", end_tensors(config, params))
    write_about(folder, config, fields, form)
    write_decoder(tmp_path / "one", config, params, fields, form)
    several, one = read_decoder(folder), read_decoder(tmp_path / "one")
    assert several[0] == one[0]
    assert bits(several[1]) == bits(one[1])
    index = json.loads((folder / INDEX).read_text())
    tensors = read_tensors(tmp_path / "one" / "model.safetensors")[0]
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()


def test_what_has_no_padded_form_is_refused_and_leaves_nothing(tmp_path):
    config, params, fields = build("grouped")
    turned = build("stream")[:2]
    for message, decoder, changes, options in (
        ("form: got 'zip', allowed: one of compact, padded", (config, params), {}, {"form": "zip"}),
        ("form: got 'padded', allowed: compact", turned, {}, {}),
        ("hidden: got 20, allowed: up to 19", (config, params), {"intermediate_size": 19}, {}),
        ("whole: got .*allowed: layers with all pairs", (config, params), {}, {"whole": config}),
        ("whole: number of layers: got 3", (config, params), {"num_hidden_layers": 3}, {}),
        ("whole: tied: got True, allowed: False", (config, params), {"tie_word_embeddings": True}, {}),
        ("fields: intermediate_size: got 0", (config, params), {"intermediate_size": 0}, {}),
    ):
        with pytest.raises(ValueError, match=message):
            write_decoder(tmp_path / "out", *decoder, fields | changes, **{"form": "padded", **options})
        assert list(tmp_path.iterdir()) == []
    whole = whole_config(fields, "whole").layers[0]
    with pytest.raises(ValueError, match=r"values: got 9, allowed: up to 8"):
        pad_layer(config, Layer(20, 4, 9), params["layers_0"], whole)


def test_a_stream_that_narrows_is_llamas_alone(tmp_path):
    """The modelling file has no such layers of OPT."""
    config, _, fields = build("opt")
    layers = tuple(layer._replace(stream=(32, 32, 32)) for layer in config.layers)
    with pytest.raises(ValueError, match=r"layers: stream: got \(32, 32, 32\), allowed: \(\) in decoders"):
        write_about(tmp_path, replace(config, layers=layers), fields, "compact")


def test_the_modelling_file_stands_alone():
    """It goes to users who have no diffax, and with the package."""
    nodes = list(ast.walk(ast.parse(REMOTE.read_text())))
    found = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in found} == {"inspect", "typing", "torch", "transformers"}
    assert "io/remote/*.py" in (REMOTE.parents[3] / "setup.cfg").read_text()
