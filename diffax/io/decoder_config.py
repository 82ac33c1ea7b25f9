"""The configuration files of decoders: ``config.json`` as transformers has it, read and written.

Files of the fourth and of the fifth version are read. Model types ``compact_llama`` and ``compact_opt`` are
those of checkpoints whose layers differ: what differs stands under "layers".
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffax.checks import require, require_one_of
from diffax.models.decoder_lm import ROPES, DecoderConfig, Layer, Rope, uniform_layers

COMPACT = "compact_"


def read_fields(folder: Path) -> dict[str, Any]:
    """The file's content; ValueError where there is none."""
    file = folder / "config.json"
    require(file.is_file(), "model", str(folder), "a folder with a config.json")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: got {error}, allowed: JSON") from error


def parse_config(given: Mapping[str, Any], where: str) -> DecoderConfig:
    """A configuration whose layers have no pairs yet; ValueError that names the field."""
    kind = str(given.get("model_type"))
    families = {"llama": _llama, "opt": _opt}
    require_one_of(f"{where}: model_type", kind, [*families, *(COMPACT + name for name in families)])
    config = families[kind.removeprefix(COMPACT)](_Fields(given, where))
    if not kind.startswith(COMPACT):
        return config
    layers = given.get("layers")
    require(isinstance(layers, list), f"{where}: layers", layers, "a list of what layers have")
    return replace(config, layers=tuple(_layer(each, where) for each in layers or ()))


def _layer(given: Mapping[str, Any], where: str) -> Layer:
    found = _Fields(given, f"{where}: layers")
    ranks = tuple((str(name), rank) for name, rank in dict(found.get("ranks", {})).items())
    hidden, keys, values = (found.size(name) for name in ("hidden", "keys", "values"))
    return Layer(hidden, keys, values, ranks=ranks, stream=tuple(found.get("stream", ())))


def layer_fields(config: DecoderConfig) -> list[dict[str, Any]]:
    """What layers have, as "layers" lists it; "pairs": whether theirs stand among the tensors."""
    return [
        {
            "hidden": layer.hidden,
            "keys": layer.keys,
            "values": layer.values,
            "pairs": bool(layer.pairs),
            "ranks": dict(layer.ranks),
            "stream": list(layer.stream),
        }
        for layer in config.layers
    ]


def stock_fields(config: DecoderConfig, hidden: int) -> dict[str, Any]:
    """A file's content for a decoder that was not read from one; ``hidden`` units of a whole layer."""
    common = {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_hidden_layers": len(config.layers),
        "max_position_embeddings": config.positions,
        "tie_word_embeddings": config.tied,
    }
    if config.family == "opt":
        more = {"ffn_dim": hidden, "word_embed_proj_dim": config.width}
        named = {"model_type": "opt", "architectures": ["OPTForCausalLM"]}
        return {**named, **common, **more, "activation_function": config.activation}
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **common,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": hidden,
        "hidden_act": config.activation,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope.theta,
        "rope_scaling": _scaling(config.rope),
    }


def _scaling(rope: Rope) -> dict[str, Any] | None:
    if rope.kind == "default":
        return None
    found: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "llama3":
        found |= {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
        found["original_max_position_embeddings"] = rope.original
    return found


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
