"""What a user would compare with: other ways to the same number of parameters, from the same moments.

* ``slicegpt``: the stream itself narrows, to its principal axes at each norm (Ashkboos et al. 2024,
  arXiv:2401.15024); the maps between the axes of two norms count as parameters.
* ``svd_llm``: every matrix becomes a product of two, best for its inputs' second moment (Wang et al. 2024,
  arXiv:2403.07378, section 3.1); ``svd``: the same without looking at inputs.
* ``magnitude``: the units, pairs and values whose weights are largest; nothing is rebuilt.
* ``random``: drawn; the rest is rebuilt as the method does.

Short implementations of the ideas, not the authors' programs.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffax import linalg
from diffax.checks import require
from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params
from experiments.modegpt import method
from experiments.modegpt.allocation import layer_parameters
from experiments.modegpt.method import Job, like, wide

SLICE_NEEDS = ("before", "middle", "after")
SVD_NEEDS = ("attention_in", "mixed", "mlp_in", "units")
_INPUTS = {"query": "attention_in", "key": "attention_in", "value": "attention_in", "out": "mixed"}
_INPUTS |= {"gate": "mlp_in", "up": "mlp_in", "down": "units"}


# -- matrices as products -----------------------------------------------------------------------------------


def svd_targets(config: DecoderConfig, share: float) -> tuple[Layer, ...]:
    """Layers whose maps are products with the share of each map's parameters gone."""

    def rank(into: int, out: int) -> int:
        return max(1, round((1 - share) * into * out / (into + out)))

    return tuple(
        layer._replace(ranks=tuple((name, rank(*size)) for name, size in config.maps(layer).items()))
        if share
        else layer
        for layer in config.layers
    )


def svd_layer(job: Job) -> tuple[Layer, dict[str, Any]]:
    """Every map as two; by its inputs' moments where ``stats`` has them."""
    _, _, params, stats, target, options = job
    found = dict(params)
    for name, rank in target.ranks:
        kernel = params[name]["kernel"]
        c = stats[_INPUTS[name]].second if stats else np.eye(len(kernel))
        c = c + options.ridge * linalg.mean_diagonal(c) * np.eye(len(c)) if stats else c
        first, second = linalg.low_rank(c, wide(kernel), rank)
        found[f"{name}_in"] = {"kernel": like(first, kernel)}
        found[name] = {**params[name], "kernel": like(second, kernel)}
    return target, found


# -- a narrower stream --------------------------------------------------------------------------------------


def slice_targets(config: DecoderConfig, share: float) -> tuple[Layer, ...]:
    """Layers whose stream is as narrow as the share asks for, with the shortcuts' maps counted."""
    require(config.family == "llama", "method", "slicegpt", "another method for models of this family")
    if not share:
        return config.layers
    asked = (1 - share) * layer_parameters(config, config.layers)

    def at(width: int) -> tuple[Layer, ...]:
        return tuple(layer._replace(stream=(width,) * 3) for layer in config.layers)

    return min(
        map(at, range(1, config.width + 1)), key=lambda layers: abs(layer_parameters(config, layers) - asked)
    )


def slice_layer(job: Job) -> tuple[Layer, dict[str, Any]]:
    """Maps between the principal axes before attention, between, and after; norms' weights move into them."""
    config, _, params, stats, target, _ = job
    if not target.stream:
        return target, dict(params)
    before, middle, after = (axes(stats[name].second, target.stream[0]) for name in SLICE_NEEDS)
    entries = dict.fromkeys(("query", "key", "value"), (before, "norm_attention"))
    entries |= dict.fromkeys(("gate", "up"), (middle, "norm_mlp"))
    found: dict[str, Any] = {}
    for name, (turn, norm) in entries.items():
        kernel = wide(params[norm]["scale"])[:, None] * wide(params[name]["kernel"])
        found[name] = kernel_like(params, name, turn.T @ kernel)
    found["out"] = kernel_like(params, "out", wide(params["out"]["kernel"]) @ middle)
    found["down"] = kernel_like(params, "down", wide(params["down"]["kernel"]) @ after)
    found["turn_attention"] = kernel_like(params, "out", before.T @ middle)
    found["turn_mlp"] = kernel_like(params, "down", middle.T @ after)
    norm = like(root_scale(config, target), params["norm_mlp"]["scale"])
    return target, {**found, "norm_attention": {"scale": norm}, "norm_mlp": {"scale": norm}}


def slice_ends(
    config: DecoderConfig,
    params: Params,
    first: Float[np.ndarray, "d d"],
    last: Float[np.ndarray, "d d"],
    target: Layer,
) -> dict[str, Any]:
    """Embedding and head in the axes of the moments before the first layer and after the last.

    A tied head becomes one of its own.
    """
    if not target.stream:
        return dict(params)
    width, embed = target.stream[0], params["embed"]
    head = wide(embed).T if config.tied else wide(params["head"])
    turned = axes(last, width).T @ (wide(params["norm"]["scale"])[:, None] * head)
    return {
        "embed": like(wide(embed) @ axes(first, width), embed),
        "head": like(turned, embed),
        "norm": {"scale": like(root_scale(config, target), params["norm"]["scale"])},
    }


def axes(second: Float[np.ndarray, "d d"], width: int) -> Float[np.ndarray, "d r"]:
    """The first principal axes."""
    return linalg.principal_axes(second)[:, :width]


def root_scale(config: DecoderConfig, target: Layer) -> Float[np.ndarray, "r"]:
    """Weights of a norm that divides by the mean over a narrow stream: as if by that over the whole."""
    width = target.stream[0]
    return np.full(width, math.sqrt(config.width / width))


def kernel_like(params: Params, name: str, kernel: Float[np.ndarray, "n m"]) -> dict[str, Any]:
    """A map's parameters, in its type."""
    return {"kernel": like(kernel, params[name]["kernel"])}


# -- other choices of the same structure --------------------------------------------------------------------


def magnitude_layer(job: Job) -> tuple[Layer, dict[str, Any]]:
    """Units, pairs and values by their weights' lengths."""
    config, number, params, _, target, options = job
    layer, found, pairs = config.layers[number], dict(params), ()
    if target.hidden < layer.hidden:
        lengths = sum(squares(params[name], 0) for name in ("gate", "up") if name in params)
        chosen = linalg.choose(lengths * squares(params["down"], 1), target.hidden)
        found |= method.keep_units(params, chosen, None, options)
    if target.keys < layer.keys:
        shape = (config.kv_heads, -1, config.head_size)
        queries = squares(params["query"], 0).reshape(shape)
        keys = squares(params["key"], 0).reshape(config.kv_heads, -1)
        kept = method.choose_by(config, queries, keys, target.keys)
        found |= method.keep_keys(config, params, kept)
        pairs = method.as_pairs(config, kept)
    if target.values < layer.values:
        shape = (config.kv_heads, -1, config.head_size)
        read = squares(params["out"], 1).reshape(shape).sum(axis=1)
        scores = squares(params["value"], 0).reshape(config.kv_heads, -1) * read
        found |= keep_values(config, params, [linalg.choose(each, target.values) for each in scores])
    return target._replace(pairs=pairs), found


def random_layer(job: Job) -> tuple[Layer, dict[str, Any]]:
    """Units, pairs and values drawn; what follows units and values is rebuilt by least squares."""
    config, number, params, stats, target, options = job
    draw = np.random.default_rng([options.seed, number])
    layer, found, pairs = config.layers[number], dict(params), ()

    def some(most: int, count: int) -> Int[np.ndarray, "k"]:
        return np.sort(draw.permutation(most)[:count])

    if target.hidden < layer.hidden:
        found |= method.keep_units(params, some(layer.hidden, target.hidden), stats["units"], options)
    if target.keys < layer.keys:
        kept = some_keys(config, target.keys, some)
        found |= method.keep_keys(config, params, kept)
        pairs = method.as_pairs(config, kept)
    if target.values < layer.values:
        chosen = [some(layer.values, target.values) for _ in range(config.kv_heads)]
        found |= keep_values(config, params, chosen, stats["values"], options.ridge)
    return target._replace(pairs=pairs), found


def some_keys(config: DecoderConfig, count: int, some: Any) -> Int[np.ndarray, "kv r"]:
    """Drawn numbers of each head of keys; whole pairs where they rotate."""
    if config.family != "llama":
        return np.stack([some(config.head_size, count) for _ in range(config.kv_heads)])
    pairs = np.stack([some(config.head_size // 2, count // 2) for _ in range(config.kv_heads)])
    return method.both_halves(config, pairs)


def keep_values(
    config: DecoderConfig,
    params: Params,
    chosen: list[Int[np.ndarray, "r"]],
    values: Moments | None = None,
    ridge: float = 0.0,
) -> dict[str, Any]:
    """Some of each head's values, and the outputs that read them, rebuilt by their moments, if given."""
    mean = np.zeros((config.kv_heads, config.head_size))
    into, back = method.split_values(config, params, mean)
    narrow = []
    for head, (out, kept) in enumerate(zip(back, chosen, strict=True)):
        if values is None:
            narrow.append(out[:, kept])
        else:
            c = values.second[head]
            narrow.append(np.stack([linalg.reconstruct(c, kept, each, ridge) for each in out]))
    return method.join_values(
        params, np.stack([v[:, kept] for v, kept in zip(into, chosen, strict=True)]), np.stack(narrow)
    )


def squares(part: Params, axis: int) -> Float[np.ndarray, "n"]:
    """Squared lengths of a matrix's columns (axis 0) or rows."""
    return np.sum(wide(part["kernel"]) ** 2, axis=axis)
