"""Checkpoints of decoders: the ways they are stored, and what is wrong with a bad one."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from oracle.peers.make_transformers_decoders import CASES, LLAMA, LLAMA3, random_weights

from diffax.io import write_json
from diffax.io.decoder_files import INDEX, read_decoder
from diffax.io.weights import write_tensors
from diffax.models.decoder_lm import Rope

PEER = np.load(Path(__file__).parents[1] / "oracle" / "peers" / "transformers_decoders.npz")
SHAPES = json.loads(str(PEER["meta"]))["shapes"]


def weights_of(name="grouped"):
    """Random tensors of a case, by the names that its file has."""
    return random_weights(SHAPES[name])


@pytest.fixture
def tied():
    return CASES["one_head_tied_linear"]


def store(folder, config, tensors, shards=0):
    """A folder with one file, or several with an index."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", config)
    if not shards:
        write_tensors(folder / "model.safetensors", tensors)
        return folder
    names = sorted(tensors)
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        write_tensors(folder / file, {n: tensors[n] for n in names if places[n] == file})
    write_json(folder / INDEX, {"metadata": {}, "weight_map": places})
    return folder


def leaves(params):
    return {"/".join(k): v for k, v in _walk(params)}


def _walk(node, keys=()):
    for key, child in node.items():
        yield from _walk(child, (*keys, key)) if isinstance(child, dict) else [((*keys, key), child)]


def test_several_files_are_one(tmp_path):
    tensors = weights_of()
    one, several = (read_decoder(store(tmp_path / str(n), LLAMA, tensors, n)) for n in (0, 3))
    assert one[0] == several[0]
    first, second = leaves(one[1]), leaves(several[1])
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_tied_heads_under_either_name_or_both(tmp_path, tied):
    tensors = weights_of("one_head_tied_linear")
    table = tensors["model.embed_tokens.weight"]
    rest = {name: value for name, value in tensors.items() if value is not table}
    for number, names in enumerate(
        (("model.embed_tokens.weight",), ("lm_head.weight",), ("model.embed_tokens.weight", "lm_head.weight"))
    ):
        _, params = read_decoder(store(tmp_path / str(number), tied, {**rest, **dict.fromkeys(names, table)}))
        np.testing.assert_array_equal(params["embed"], table)
        assert "head" not in params
    other = store(tmp_path / "other", tied, {**tensors, "lm_head.weight": table + 1})
    with pytest.raises(ValueError, match=r"lm_head\.weight: got 'another matrix'"):
        read_decoder(other)


def test_types_are_kept(tmp_path):
    tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights_of().items()}
    _, params = read_decoder(store(tmp_path, LLAMA, tensors))
    assert {value.dtype.name for value in leaves(params).values()} == {"bfloat16"}


def test_config_files_of_both_versions(tmp_path):
    old = {k: v for k, v in LLAMA.items() if k != "rope_parameters"}
    scaling = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    for number, (changes, rope) in enumerate(
        (
            ({"rope_parameters": LLAMA3}, Rope(500.0, "llama3", 8.0, 1.0, 4.0, 32)),
            ({"rope_theta": 500.0, "rope_scaling": scaling}, Rope(500.0, "llama3", 8.0, 1.0, 4.0, 32)),
            ({"rope_theta": 70.0, "rope_scaling": None}, Rope(70.0)),
            (
                {"rope_theta": 70.0, "rope_scaling": {"type": "linear", "factor": 2}},
                Rope(70.0, "linear", 2.0),
            ),
        )
    ):
        config, _ = read_decoder(store(tmp_path / str(number), {**old, **changes}, weights_of()))
        assert config.rope == rope


NAME = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, r"config\.json: model_type: got 'gpt2', allowed: .*llama"),
        ({"hidden_size": None}, r"config\.json: hidden_size: got None"),
        ({"num_attention_heads": 0}, r"config\.json: num_attention_heads: got 0, allowed: an integer >= 1"),
        ({"vocab_size": "61"}, r"config\.json: vocab_size: got '61'"),
        ({"attention_bias": True}, r"config\.json: attention_bias: got True, allowed: False"),
        ({"hidden_act": "gelu"}, r"config\.json: hidden_act: got 'gelu'"),
        ({"num_key_value_heads": 3}, "kv_heads: got 3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"config\.json: rope_type: got 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, r"rope: low_freq_factor"),
        ({"intermediate_size": 45}, r"mlp\.gate_proj\.weight: shape: got \(44, 32\), allowed: \(45, 32\)"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight: got 'no such tensor'"),
        ({"num_hidden_layers": 1}, r"tensors left over: got \['model\.layers\.1"),
    ],
)
def test_bad_configurations(tmp_path, changes, message):
    folder = store(tmp_path / "model", {**LLAMA, **changes}, weights_of())
    with pytest.raises(ValueError, match=message):
        read_decoder(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((16, 32), np.nan, np.float32), "k_proj.weight: got 'NaN or infinity'"),
        (np.zeros((16, 31), np.float32), r"k_proj\.weight: shape: got \(16, 31\)"),
        (np.zeros((16, 32), np.int32), r"k_proj\.weight: type: got 'int32'"),
        (None, r"k_proj\.weight: got 'no such tensor'"),
    ],
)
def test_bad_tensors(tmp_path, value, message):
    tensors = weights_of() | {NAME: value}
    folder = store(tmp_path, LLAMA, {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(ValueError, match=message):
        read_decoder(folder)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"a folder with a config\.json"):
        read_decoder(tmp_path)
    folder = store(tmp_path / "shards", LLAMA, weights_of(), 2)
    second = folder / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    for damaged in (content[:-3], content + b"0", b""):
        second.write_bytes(damaged)
        with pytest.raises(ValueError, match="model-00002"):
            read_decoder(folder)
    second.unlink()
    with pytest.raises(ValueError, match=r"index\.json: model-00002.*no such file"):
        read_decoder(folder)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    write_json(
        folder / INDEX, {"weight_map": {k: v.replace("00002-of", "00001-of") for k, v in places.items()}}
    )
    with pytest.raises(ValueError, match=r"index\.json: tensors: got \['"):
        read_decoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: got .*allowed: JSON"):
        read_decoder(folder)
