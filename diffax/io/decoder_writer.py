"""Decoders whose layers differ, as checkpoints: *compact*, which says so, or *padded*, which looks like any.

    write_decoder("small", config, params, form="compact")
    write_decoder("same-but-padded", *read_decoder("small"), read_fields(Path("small")), form="padded")

A compact checkpoint holds the matrices as they are, and the file that teaches transformers to run it
(``trust_remote_code=True``). A padded one has the shapes of a ``whole`` configuration: rotary pairs stand at
their own places with zeros between them, values and hidden units have zeros after them, products are
multiplied out. It gives the same logits, in every program that knows the architecture.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffax.checks import require, require_one_of
from diffax.io import decoder_layout as layout
from diffax.io.decoder_config import COMPACT, layer_fields, parse_config, stock_fields
from diffax.io.decoder_files import INDEX
from diffax.io.decoder_layout import Stored
from diffax.io.files import new_folder, write_json
from diffax.io.weights import TensorFile, Tensors, write_tensors
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params

FORMS = ("compact", "padded")
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
FLOATS = ("float32", "float16", "bfloat16", "float64")
_STOCK = {"llama": "Llama", "opt": "OPT"}
_REMOTE = Path(__file__).parent / "remote" / "modeling_compact.py"


def write_decoder(
    folder: str | Path,
    config: DecoderConfig,
    params: Params,
    fields: Mapping[str, Any] | None = None,
    form: str = "compact",
    whole: DecoderConfig | None = None,
    beside: str | Path | None = None,
    dtype: str | None = None,
) -> None:
    """A new folder with everything, in one file of tensors.

    ``fields``: the content of the config.json that the decoder comes from, by default what its widths say;
    ``whole``: the configuration of the padded form, by default that of ``fields``; ``beside``: a folder whose
    tokenizer is copied; ``dtype``: of all weights, by default each array's own. Raises ValueError for forms
    and types that there are not, and for the padded form where none of its shapes fit.
    """
    require_one_of("form", form, FORMS)
    fields = dict(fields or stock_fields(config, max(layer.hidden for layer in config.layers)))
    if form == "padded":
        whole = whole or whole_config(fields, "fields")
    tensors = end_tensors(config, params)
    for number in range(len(config.layers)):
        tensors |= layer_tensors(config, number, params[f"layers_{number}"], form, whole or config)
    if dtype is not None:
        require_one_of("dtype", dtype, FLOATS)
        tensors = {name: _cast(value, dtype) for name, value in tensors.items()}
        fields["torch_dtype" if "torch_dtype" in fields else "dtype"] = dtype
    with new_folder(folder) as temporary:
        write_tensors(temporary / "model.safetensors", tensors, {"format": "pt"})
        write_about(temporary, config, fields, form, beside)


def _cast(value: np.ndarray, dtype: str) -> np.ndarray:
    """Weights as another type; integers stay."""
    return value if value.dtype.kind == "i" else value.astype(dtype)


def layer_tensors(
    config: DecoderConfig, number: int, params: Params, form: str, whole: DecoderConfig
) -> Tensors:
    """A layer's tensors by the names that they have in a checkpoint.

    Raises ValueError where the padded form is asked for and ``whole`` has no room for it.
    """
    if form == "padded":
        _check_whole(config, whole)
        padded, found = pad_layer(config, config.layers[number], params, whole.layers[number])
        return _tensors(layout.layer(replace(config, layers=(padded,) * (number + 1)), number), found)
    tensors = _tensors(layout.layer(config, number), params)
    if config.layers[number].pairs:
        tensors[layout.pairs_name(config, number)] = np.asarray(config.layers[number].pairs, np.int32)
    return tensors


def end_tensors(config: DecoderConfig, params: Params) -> Tensors:
    """Those of embedding, positions, the last norm and the head."""
    return _tensors(layout.ends(config), params)


def write_about(
    folder: Path,
    config: DecoderConfig,
    fields: Mapping[str, Any],
    form: str,
    beside: str | Path | None = None,
) -> None:
    """config.json, an index where the folder has several files of tensors, and what makes them usable."""
    if form == "compact":
        write_json(folder / "config.json", compact_fields(config, fields))
        shutil.copyfile(_REMOTE, folder / _REMOTE.name)
    else:
        write_json(folder / "config.json", whole_fields(fields))
    files = sorted(folder.glob("model-*.safetensors"))
    if files:
        places = {name: file for file in map(TensorFile, files) for name in file.names}
        size = sum(_bytes(*file.about(name)) for name, file in places.items())
        map_of_names = {name: file.path.name for name, file in places.items()}
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": map_of_names})
    for name in BESIDE if beside else ():
        if (Path(beside or "") / name).is_file():
            shutil.copyfile(Path(beside or "") / name, folder / name)


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def compact_fields(config: DecoderConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the compact form, from that of the decoder that it was made of.

    Raises ValueError for OPT with shortcuts that are maps, which its modelling file does not have.
    """
    turned = config.family == "opt" and any(layer.stream for layer in config.layers)
    require(not turned, "layers: stream", config.layers[0].stream, "() in decoders of the family opt")
    name = f"Compact{_STOCK[config.family]}"
    return {
        **fields,
        "model_type": COMPACT + config.family,
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{_REMOTE.stem}.{name}Config",
            "AutoModelForCausalLM": f"{_REMOTE.stem}.{name}ForCausalLM",
        },
        "tie_word_embeddings": config.tied,
        "layers": layer_fields(config),
    }


def whole_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the padded form, from that of the decoder it was made of, or of its compact form."""
    kind = str(fields.get("model_type"))
    if not kind.startswith(COMPACT):
        return dict(fields)
    family = kind.removeprefix(COMPACT)
    found = {name: value for name, value in fields.items() if name not in ("layers", "auto_map")}
    return {**found, "model_type": family, "architectures": [f"{_STOCK.get(family)}ForCausalLM"]}


def whole_config(fields: Mapping[str, Any], where: str) -> DecoderConfig:
    """The configuration whose shapes the padded form has; ValueError that begins with ``where``."""
    return parse_config(whole_fields(fields), where)


def _tensors(stored: Sequence[Stored], params: Params) -> Tensors:
    found = {one.name: _leaf(params, one.path) for one in stored}
    return {one.name: found[one.name].T if one.turned else found[one.name] for one in stored}


def _leaf(params: Params, path: Sequence[str]) -> np.ndarray:
    node: Any = params
    for key in path:
        node = node[key]
    return np.asarray(node)


# -- zeros put back -----------------------------------------------------------------------------------------


def pad_decoder(config: DecoderConfig, params: Params, whole: DecoderConfig) -> dict[str, Any]:
    """Parameters of ``DecoderLM(whole)`` that give the same logits; ValueError where there are none."""
    _check_whole(config, whole)
    layers = zip(config.layers, whole.layers, strict=True)
    found = {
        f"layers_{number}": pad_layer(config, layer, params[f"layers_{number}"], all_of_it)[1]
        for number, (layer, all_of_it) in enumerate(layers)
    }
    return {**params, **found}


def pad_layer(
    config: DecoderConfig, layer: Layer, params: Params, whole: Layer
) -> tuple[Layer, dict[str, Any]]:
    """Parameters of the widths of ``whole`` that do what ``layer``'s do.

    Raises ValueError for a layer whose stream narrows or that is wider than ``whole``, and for a ``whole``
    that is not.
    """
    _check_stream(layer)
    allowed = "layers with all pairs, and without products"
    require(not any(whole[3:]), "whole", whole[3:], allowed)
    for name, some, room in zip(Layer._fields, layer[:3], whole[:3], strict=False):
        require(some <= room, f"form 'padded': {name}", some, f"up to {room}, those of a whole layer")
    found = {name: _multiplied(params, name) for name in params if not name.endswith("_in")}
    for name, heads in (("query", config.heads), ("key", config.kv_heads)):
        places = _places(config, layer, whole, heads)
        found[name] = _put(found[name], places, heads * whole.keys)
    values = _first(config.kv_heads, layer.values, whole.values)
    found["value"] = _put(found["value"], values, config.kv_heads * whole.values)
    mixed = _first(config.heads, layer.values, whole.values)
    found["out"] = _put_rows(found["out"], mixed, config.heads * whole.values)
    units = np.arange(layer.hidden)
    for name in ("gate", "up"):
        if name in found:
            found[name] = _put(found[name], units, whole.hidden)
    found["down"] = _put_rows(found["down"], units, whole.hidden)
    return whole, found


def _check_whole(config: DecoderConfig, whole: DecoderConfig) -> None:
    """Only layers may differ; ValueError naming what else does."""
    for layer in config.layers:
        _check_stream(layer)
    count = len(config.layers)
    require(len(whole.layers) == count, "whole: number of layers", len(whole.layers), str(count))
    for name in sorted(set(config.__dataclass_fields__) - {"layers"}):
        mine, other = getattr(config, name), getattr(whole, name)
        require(mine == other, f"whole: {name}", other, repr(mine))


def _check_stream(layer: Layer) -> None:
    """No architecture of a family has shortcuts that are maps."""
    require(not layer.stream, "form", "padded", "compact, for layers whose residual stream narrows")


def _multiplied(params: Params, name: str) -> dict[str, Any]:
    """A map as one matrix."""
    if f"{name}_in" not in params:
        return dict(params[name])
    first, second = (np.asarray(params[part]["kernel"]) for part in (f"{name}_in", name))
    product = first.astype(np.float64) @ second.astype(np.float64)
    return {**params[name], "kernel": product.astype(first.dtype)}


def _places(config: DecoderConfig, layer: Layer, whole: Layer, heads: int) -> Int[np.ndarray, "n"]:
    """Where the numbers of each head of queries or keys stand in a whole one."""
    if not layer.pairs:
        return _first(heads, layer.keys, whole.keys)
    pairs = np.repeat(np.asarray(layer.pairs), heads // config.kv_heads, axis=0)
    both = np.concatenate([pairs, pairs + config.head_size // 2], axis=1)
    return (np.arange(heads)[:, None] * whole.keys + both).ravel()


def _first(heads: int, some: int, size: int) -> Int[np.ndarray, "n"]:
    """The first numbers of each head."""
    return (np.arange(heads)[:, None] * size + np.arange(some)).ravel()


def _put(part: Params, places: Int[np.ndarray, "n"], size: int) -> dict[str, Any]:
    """A map whose outputs stand at some places, zeros between them."""
    found = {}
    for name, value in part.items():
        found[name] = np.zeros((*np.shape(value)[:-1], size), np.asarray(value).dtype)
        found[name][..., places] = value
    return found


def _put_rows(part: Params, places: Int[np.ndarray, "n"], size: int) -> dict[str, Any]:
    """A map that reads its inputs at some places."""
    kernel: Float[np.ndarray, "n m"] = np.asarray(part["kernel"])
    found = np.zeros((size, kernel.shape[1]), kernel.dtype)
    found[places] = kernel
    return {**part, "kernel": found}
