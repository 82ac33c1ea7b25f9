"""Written decoders: compact ones come back as they were, padded ones give the same logits from any shape."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from diffax.io import decoder_writer
from diffax.io.decoder_config import stock_fields
from diffax.io.decoder_files import DecoderFiles, read_decoder
from diffax.io.decoder_writer import pad_decoder, write_decoder
from diffax.io.weights import read_tensors, write_tensors
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, Layer, Rope, uniform_layers

WHOLE = DecoderConfig(
    vocabulary=29,
    width=16,
    heads=4,
    kv_heads=2,
    head_size=8,
    layers=uniform_layers(2, 20, 8),
    positions=32,
    norm_epsilon=1e-6,
    rope=Rope(100.0, "llama3", 8.0, 1.0, 4.0, 16),
)
OPT = DecoderConfig(29, 16, 2, 2, 8, uniform_layers(2, 20, 8), 32, "opt", "relu", bias=True, tied=True)
PAIRS = ((3, 0, 2), (1, 2, 3))  # any order


def with_layers(whole, *layers, **changes):
    return replace(whole, layers=layers, **changes)


CASES = {
    "pairs": with_layers(WHOLE, Layer(13, 6, 5, PAIRS), Layer(20, 2, 8, ((1,), (3,)))),
    "tied": with_layers(WHOLE, Layer(20, 8, 3), Layer(1, 8, 1), tied=True),
    "ranks": with_layers(
        WHOLE, Layer(20, 8, 8, (), (("query", 3), ("out", 5), ("down", 7))), Layer(12, 6, 4, PAIRS)
    ),
    "ranks_of_biased": with_layers(OPT, Layer(9, 5, 3, (), (("query", 3), ("up", 2))), Layer(20, 8, 8)),
    "stream": with_layers(
        WHOLE, Layer(20, 8, 8, (), (), (10, 12, 14)), Layer(11, 6, 4, PAIRS, (), (14, 9, 11))
    ),
}
NARROW = [name for name in CASES if name != "stream"]


def random_params(config, dtype=np.float32):
    """None of them 0, so that zeros are those put back."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (0.4 * random.normal(size=leaf.shape) + 0.01).astype(dtype), shapes_of(config)
    )


@cache
def shapes_of(config):
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    return jax.eval_shape(DecoderLM(config).init, jax.random.key(0), tokens)["params"]


def fields_of(config):
    return stock_fields(config, 20)


def logits(config, params):
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 29, (2, 12)))
    return np.asarray(jax.jit(DecoderLM(config).apply)({"params": params}, tokens))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_compact_checkpoints_come_back_to_the_byte(name, dtype, tmp_path):
    config = CASES[name]
    params = random_params(config, dtype)
    write_decoder(tmp_path / "out", config, params, fields_of(config))
    again, found = read_decoder(tmp_path / "out")
    assert again == config
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    assert DecoderFiles(tmp_path / "out").parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", NARROW)
def test_padded_checkpoints_are_stock_ones_with_the_same_logits(name, tmp_path):
    config = CASES[name]
    params, whole = random_params(config), OPT if config.family == "opt" else WHOLE
    whole = replace(whole, tied=config.tied)
    write_decoder(tmp_path / "out", config, params, fields_of(config), "padded", whole)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == fields_of(config)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    again, found = read_decoder(tmp_path / "out")
    assert again == whole
    expected = logits(config, params)
    np.testing.assert_allclose(logits(again, found), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_zeros_stand_where_pairs_values_and_units_went():
    config = CASES["pairs"]
    found = pad_decoder(config, random_params(config), WHOLE)["layers_0"]
    keys = found["key"]["kernel"].reshape(16, 2, 2, 4)  # head, half, pair
    gone = ~np.all(keys != 0, axis=(0, 2))
    np.testing.assert_array_equal(gone, [[False, True, False, False], [True, False, False, False]])
    queries = found["query"]["kernel"].reshape(16, 2, 2, 2, 4)  # group, head of it
    np.testing.assert_array_equal(~np.any(queries != 0, axis=(0, 2, 3)), gone)
    values = found["value"]["kernel"].reshape(16, 2, 8)
    np.testing.assert_array_equal(np.any(values != 0, axis=(0, 1)), np.arange(8) < 5)
    read = found["out"]["kernel"].reshape(4, 8, 16)
    np.testing.assert_array_equal(np.any(read != 0, axis=(0, 2)), np.arange(8) < 5)
    np.testing.assert_array_equal(np.any(found["down"]["kernel"] != 0, axis=1), np.arange(20) < 13)


def test_a_narrow_stream_cannot_be_padded_and_leaves_nothing(tmp_path):
    config = CASES["stream"]
    with pytest.raises(ValueError, match="form: got 'padded', allowed: compact, for layers whose residual"):
        write_decoder(tmp_path / "out", config, random_params(config), fields_of(config), "padded", WHOLE)
    with pytest.raises(ValueError, match="form: got 'sparse'"):
        write_decoder(tmp_path / "out", config, random_params(config), fields_of(config), "sparse")
    assert not list(tmp_path.iterdir())


def test_what_goes_wrong_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    config = CASES["pairs"]
    monkeypatch.setattr(decoder_writer, "write_about", fail)
    with pytest.raises(OSError, match="no space"):
        write_decoder(tmp_path / "out", config, random_params(config), fields_of(config))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_in_it_is_not_replaced(tmp_path):
    config, out = CASES["tied"], tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        write_decoder(out, config, random_params(config), fields_of(config))
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_tokenizers_go_along(tmp_path):
    config, beside = CASES["pairs"], tmp_path / "beside"
    beside.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "pytorch_model.bin"):
        (beside / name).write_text(name)
    write_decoder(tmp_path / "out", config, random_params(config), fields_of(config), beside=beside)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "modeling_compact.py",
        "tokenizer.json", "tokenizer_config.json", "merges.txt",
    }  # fmt: skip


def test_pairs_are_integers_beside_the_weights(tmp_path):
    config = CASES["pairs"]
    write_decoder(tmp_path / "out", config, random_params(config), fields_of(config))
    tensors, metadata = read_tensors(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.rotary_pairs"], PAIRS)
    assert tensors["model.layers.0.self_attn.rotary_pairs"].dtype == np.int32
    assert metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("pairs", "layers", "message"),
    [
        (None, {}, r"layers\[0\]\.pairs: got \(\), allowed: 3 different pairs of each head"),
        ([[0, 1, 4], [0, 1, 2]], {}, r"layers\[0\]\.pairs"),
        ([[0, 1, 1], [0, 1, 2]], {}, r"layers\[0\]\.pairs"),
        ([[0, 1, 2]], {}, r"layers\[0\]\.pairs"),
        (PAIRS, {"keys": 5}, r"layers\[0\]\.keys: got 5, allowed: an even number up to 8"),
        (PAIRS, {"hidden": 0}, "layers: hidden: got 0, allowed: an integer >= 1"),
        (PAIRS, {"ranks": {"gait": 2}}, r"layers\[0\]\.ranks: got 'gait'"),
        (PAIRS, {"stream": [4, 4]}, r"layers\[0\]\.stream"),
    ],
)
def test_compact_checkpoints_that_make_no_sense(pairs, layers, message, tmp_path):
    config, out = CASES["pairs"], tmp_path / "out"
    write_decoder(out, config, random_params(config), fields_of(config))
    tensors = read_tensors(out / "model.safetensors")[0]
    name = "model.layers.0.self_attn.rotary_pairs"
    del tensors[name]
    more = {} if pairs is None else {name: np.array(pairs, np.int32)}
    write_tensors(out / "model.safetensors", {**tensors, **more})
    fields = json.loads((out / "config.json").read_text())
    fields["layers"][0] |= layers
    (out / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        read_decoder(out)


def test_a_turned_head_of_a_tied_model_is_its_own(tmp_path):
    """The fields are those of the model that it was made of."""
    config = CASES["stream"]
    params = random_params(config)
    write_decoder(tmp_path / "out", config, params, fields_of(replace(config, tied=True)))
    again, found = read_decoder(tmp_path / "out")
    assert not again.tied
    np.testing.assert_array_equal(found["head"], params["head"])
