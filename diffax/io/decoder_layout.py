"""Where a decoder's parameters stand in Hugging Face checkpoints: names and shapes, tensor by tensor.

Matrices have their outputs first there. Maps that are products of two have ``{name}_in`` before them, maps of
the shortcuts their own names, and the rotary pairs that are left stand beside a layer's weights: these three
are ours alone, in checkpoints whose model type is ``compact_llama`` or ``compact_opt``.
"""

from typing import NamedTuple

from diffax.models.decoder_lm import DecoderConfig

# our names of a layer's parts -> theirs
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
HEAD = "lm_head.weight"


class Stored(NamedTuple):
    """A tensor of a checkpoint, and the leaf of parameters that it is; ``turned``: its transpose."""

    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]
    turned: bool = False


def ends(config: DecoderConfig) -> list[Stored]:
    """All that is not in a layer: embedding, positions, the last norm, the head (unless it is tied)."""
    prefix, _, norm = _PLACES[config.family]
    first, last = config.ends
    found = [Stored(("embed",), embedding_name(config), (config.vocabulary, first))]
    if config.family == "opt":
        table = (config.positions + 2, first)
        found.append(Stored(("positions",), f"{prefix}embed_positions.weight", table))
    found += _norm(config, ("norm",), prefix + norm, last)
    if not config.tied:
        found.append(Stored(("head",), HEAD, (config.vocabulary, last), turned=True))
    return found


def layer(config: DecoderConfig, number: int) -> list[Stored]:
    """Of one layer; paths begin with its norms and maps."""
    sizes = config.maps(config.layers[number])
    prefix = f"{layer_prefix(config, number)}."
    theirs = _PLACES[config.family][1]
    before, middle, _ = config.layers[number].stream or (config.width,) * 3
    found = _norm(config, ("norm_attention",), prefix + theirs["norm_attention"], before)
    found += _norm(config, ("norm_mlp",), prefix + theirs["norm_mlp"], middle)
    for ours, (into, out) in sizes.items():
        name = prefix + map_name(config, ours)
        found.append(Stored((ours, "kernel"), f"{name}.weight", (out, into), turned=True))
        if config.bias and ours in theirs:
            found.append(Stored((ours, "bias"), f"{name}.bias", (out,)))
    return found


def map_name(config: DecoderConfig, ours: str) -> str:
    """Of a layer's map in a checkpoint."""
    theirs = _PLACES[config.family][1]
    whole = ours.removesuffix("_in")
    return theirs.get(whole, whole) + ours.removeprefix(whole)


def layer_prefix(config: DecoderConfig, number: int) -> str:
    """What a layer's tensors' names begin with."""
    return f"{_PLACES[config.family][0]}layers.{number}"


def pairs_name(config: DecoderConfig, number: int) -> str:
    """Of the rotary pairs that a layer has, integers (heads of keys, pairs)."""
    return f"{layer_prefix(config, number)}.self_attn.rotary_pairs"


def embedding_name(config: DecoderConfig) -> str:
    """Of the embedding; a tied one may be stored as :data:`HEAD` instead, or as both."""
    return f"{_PLACES[config.family][0]}embed_tokens.weight"


def _norm(config: DecoderConfig, path: tuple[str, ...], name: str, width: int) -> list[Stored]:
    parts = {"scale": "weight"} | ({"bias": "bias"} if config.family == "opt" else {})
    return [Stored((*path, ours), f"{name}.{theirs}", (width,)) for ours, theirs in parts.items()]
