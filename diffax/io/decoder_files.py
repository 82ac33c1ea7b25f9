"""Llama and OPT checkpoints in the layout of Hugging Face: a folder with config.json and safetensors.

    config, params = read_decoder("TinyStories-656K")
    logits = DecoderLM(config).apply({"params": params}, tokens)

Matrices are stored there with their outputs first. Config files of the fourth and of the fifth version of
transformers are read; tied heads are found under either name.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require, require_one_of
from diffax.io.weights import Tensors, read_tensors
from diffax.models.decoder_lm import ROPES, DecoderConfig, Rope, uniform_layers
from diffax.types import Params

INDEX = "model.safetensors.index.json"
# our names of a layer's maps -> theirs
_LLAMA = {
    "norm_attention": "input_layernorm",
    "norm_mlp": "post_attention_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_OPT = {
    "norm_attention": "self_attn_layer_norm",
    "norm_mlp": "final_layer_norm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "up": "fc1",
    "down": "fc2",
}
_PLACES = {"llama": ("model.", _LLAMA, "norm"), "opt": ("model.decoder.", _OPT, "final_layer_norm")}


def read_decoder(folder: str | Path) -> tuple[DecoderConfig, Params]:
    """Configuration and parameters, as stored: arrays keep their types.

    Raises ValueError naming the file and the field or tensor that is missing, left over, of another shape
    than the configuration says, damaged, or not finite; and for architectures of other families.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors = read_all(folder)
    found = from_tensors(config, tensors, str(folder))
    return config, found


def read_config(folder: Path) -> DecoderConfig:
    """Of ``config.json``; ValueError that names its field."""
    file = folder / "config.json"
    require(file.is_file(), "model", str(folder), "a folder with a config.json")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: got {error}, allowed: JSON") from error
    families = {"llama": _llama, "opt": _opt}
    require_one_of(f"{file}: model_type", str(given.get("model_type")), families)
    return families[given["model_type"]](_Fields(given, str(file))).check()


class _Fields:
    """Fields of a file; ValueError for those that are needed and not there."""

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self.given, self.where = given, where

    def __getitem__(self, name: str) -> Any:
        require(self.given.get(name) is not None, f"{self.where}: {name}", None, "a value")
        return self.given[name]

    def size(self, name: str) -> int:
        value = self[name]
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(whole, f"{self.where}: {name}", value, "an integer >= 1")
        return value

    def get(self, name: str, default: Any) -> Any:
        value = self.given.get(name)
        return default if value is None else value

    def only(self, name: str, allowed: Any) -> None:
        value = self.get(name, allowed)
        require(value == allowed, f"{self.where}: {name}", value, repr(allowed))


def _llama(given: _Fields) -> DecoderConfig:
    given.only("hidden_act", "silu")
    given.only("attention_bias", False)
    given.only("mlp_bias", False)
    head_size = given.get("head_dim", given.size("hidden_size") // given.size("num_attention_heads"))
    return DecoderConfig(
        **_sizes(given, head_size, given.size("intermediate_size")),
        kv_heads=given.get("num_key_value_heads", given.size("num_attention_heads")),
        tied=given.get("tie_word_embeddings", False),
        norm_epsilon=given.get("rms_norm_eps", 1e-6),
        rope=_rope(given),
    )


def _sizes(given: _Fields, head_size: int, hidden: int) -> dict[str, Any]:
    """What both families call alike."""
    return {
        "vocabulary": given.size("vocab_size"),
        "width": given.size("hidden_size"),
        "heads": given.size("num_attention_heads"),
        "head_size": head_size,
        "layers": uniform_layers(given.size("num_hidden_layers"), hidden, head_size),
        "positions": given.get("max_position_embeddings", 2048),
    }


def _rope(given: _Fields) -> Rope:
    """ "rope_parameters" since version 5, "rope_theta" and "rope_scaling" before."""
    new, old = given.get("rope_parameters", {}), given.get("rope_scaling", {})
    found = new or old
    kind = found.get("rope_type", found.get("type", "default"))
    require_one_of(f"{given.where}: rope_type", kind, ROPES)
    theta = new.get("rope_theta", given.get("rope_theta", 10_000.0))
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, float(found["factor"]))
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    for name in names:
        require(name in found, f"{given.where}: rope: {name}", None, "a number")
    factor, low, high, original = (found[name] for name in names)
    return Rope(theta, kind, float(factor), float(low), float(high), int(original))


def _opt(given: _Fields) -> DecoderConfig:
    given.only("do_layer_norm_before", True)
    given.only("word_embed_proj_dim", given.size("hidden_size"))
    given.only("enable_bias", True)
    given.only("layer_norm_elementwise_affine", True)
    given.only("_remove_final_layer_norm", False)
    heads = given.size("num_attention_heads")
    return DecoderConfig(
        **_sizes(given, given.size("hidden_size") // heads, given.size("ffn_dim")),
        kv_heads=heads,
        family="opt",
        activation=given.get("activation_function", "relu"),
        bias=True,
        tied=given.get("tie_word_embeddings", True),
    )


def read_all(folder: Path) -> Tensors:
    """Tensors of ``model.safetensors``, or of all files that its index names."""
    index = folder / INDEX
    if not index.is_file():
        return read_tensors(folder / "model.safetensors")[0]
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{index}: got {error!r}, allowed: JSON with a weight_map") from error
    found: Tensors = {}
    for file in sorted(set(places.values())):
        require((folder / file).is_file(), f"{index}: {file}", "no such file", "all that it names")
        found |= read_tensors(folder / file)[0]
    missing = sorted(set(places) - set(found))
    require(not missing, f"{index}: tensors", missing[:3], "those in the files that it names")
    return found


def from_tensors(config: DecoderConfig, tensors: Mapping[str, np.ndarray], where: str) -> Params:
    """Parameters of :class:`DecoderLM` from tensors by their names; all are used, all are there."""
    left = {name: value for name, value in tensors.items() if not name.endswith("rotary_emb.inv_freq")}

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        require(name in left, f"{where}: {name}", "no such tensor", "one of " + str(shape))
        value = left.pop(name)
        require(value.shape == shape, f"{where}: {name}: shape", value.shape, str(shape))
        kind = value.dtype.name
        require_one_of(f"{where}: {name}: type", kind, ("float32", "float16", "bfloat16", "float64"))
        require(bool(np.isfinite(value).all()), f"{where}: {name}", "NaN or infinity", "finite numbers")
        return value

    params = build(config, take, left)
    require(not left, f"{where}: tensors left over", sorted(left)[:3], "those of the configuration alone")
    return params


def build(config: DecoderConfig, take: Callable[[str, tuple[int, ...]], np.ndarray], names: Any) -> Params:
    """The tree of parameters, leaf by leaf; ``names``: what there is: tied heads are stored in three ways."""
    prefix, _, last = _PLACES[config.family]
    table = (config.vocabulary, config.width)
    embed, head = f"{prefix}embed_tokens.weight", "lm_head.weight"
    params: dict[str, Any] = {}
    if config.tied:
        params["embed"] = take(embed if embed in names else head, table)
        if head in names:
            same = np.array_equal(take(head, table), params["embed"])
            require(same, head, "another matrix", f"that of {embed}, with tie_word_embeddings")
    else:
        params |= {"embed": take(embed, table), "head": take(head, table).T}
    if config.family == "opt":
        params["positions"] = take(f"{prefix}embed_positions.weight", (config.positions + 2, config.width))
    for number in range(len(config.layers)):
        params[f"layers_{number}"] = build_layer(config, number, take)
    return {**params, "norm": _norm(config, f"{prefix}{last}", take)}


def build_layer(
    config: DecoderConfig, number: int, take: Callable[[str, tuple[int, ...]], np.ndarray]
) -> dict[str, Any]:
    """One layer's parameters."""
    prefix, places, _ = _PLACES[config.family]
    found: dict[str, Any] = {}
    for ours, theirs in places.items():
        name = f"{prefix}layers.{number}.{theirs}"
        if ours.startswith("norm"):
            found[ours] = _norm(config, name, take)
            continue
        into, out = layer_shape(config, number, ours)
        found[ours] = {"kernel": take(f"{name}.weight", (out, into)).T}
        if config.bias:
            found[ours]["bias"] = take(f"{name}.bias", (out,))
    return found


def layer_shape(config: DecoderConfig, number: int, name: str) -> tuple[int, int]:
    """Inputs and outputs of a layer's map."""
    layer, width = config.layers[number], config.width
    return {
        "query": (width, config.heads * layer.keys),
        "key": (width, config.kv_heads * layer.keys),
        "value": (width, config.kv_heads * layer.values),
        "out": (config.heads * layer.values, width),
        "gate": (width, layer.hidden),
        "up": (width, layer.hidden),
        "down": (layer.hidden, width),
    }[name]


def _norm(config: DecoderConfig, name: str, take: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    found = {"scale": take(f"{name}.weight", (config.width,))}
    return found | ({"bias": take(f"{name}.bias", (config.width,))} if config.family == "opt" else {})
