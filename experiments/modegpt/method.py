r"""Structured compression without training: a layer's three pairs of matrices, each with fewer inner numbers.

    hidden units      Z = act(x W_g) * (x W_u):   J = largest diag(C (C + l I)^-1),  W_d' = (C_JJ)^+ C_J W_d
    queries and keys  S = largest |C_q^1/2 e_i| |C_k^1/2 e_i|,                       W_q S, W_k S
    values, outputs   U S V^T = svd(C^1/2 W_v W_o),                 W_v' = C^-1/2 U_r,  W_o' = S_r V_r^T

C are second moments of activations of the model as it is, over calibration text. Llama's queries and keys are
chosen by rotary pairs, which keep their frequencies, one set for each head of keys. Maps with biases (OPT)
are rebuilt around the mean, which moves into the bias that follows. Source: Lin et al. 2025
(arXiv:2408.09632), algorithms 1 to 3; what differs from them is said in the README.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffax import linalg
from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params

NEEDS = ("units", "queries", "keys", "values")
Matrix = np.ndarray


class Options(NamedTuple):
    """``ridge`` of the hidden units' reconstruction, ``leverage`` of their scores, both relative to the mean
    of C's diagonal; ``centred``: keys by their variances, which is all that attention sees; ``joint``: values
    shared by heads by what all their outputs read of them; ``affine``: around means where there are biases;
    ``seed`` of what is drawn. The paper: neither centred nor joint nor affine."""

    ridge: float = 1e-2
    leverage: float = 1e-2
    centred: bool = True
    joint: bool = True
    affine: bool = True
    seed: int = 0


class Job(NamedTuple):
    """One layer to make anew: its parameters and moments, and the widths that it is to have."""

    config: DecoderConfig
    number: int
    params: Params
    stats: Mapping[str, Moments]
    target: Layer
    options: Options


def compress_layer(job: Job) -> tuple[Layer, dict[str, Any]]:
    """One layer with the widths of ``target``; parts whose width stays are the arrays that were given."""
    config, number, params, stats, target, options = job
    layer, found = config.layers[number], dict(params)
    if target.hidden < layer.hidden:
        chosen = choose_units(params, stats["units"], target.hidden, options)
        found |= keep_units(params, chosen, stats["units"], options)
    pairs = layer.pairs
    if target.keys < layer.keys:
        chosen = choose_keys(config, stats, target.keys, options.centred)
        found |= keep_keys(config, params, chosen)
        pairs = as_pairs(config, chosen)
    if target.values < layer.values:
        found |= narrow_values(config, params, stats["values"], target.values, options)
    return target._replace(pairs=pairs), found


# -- hidden units -------------------------------------------------------------------------------------------


def choose_units(params: Params, units: Moments, count: int, options: Options) -> Int[np.ndarray, "k"]:
    """Those that are least made up for by others, and by the bias where there is one for means to move to."""
    around = units.mean * (options.affine and "bias" in params["down"])
    return linalg.choose(
        linalg.leverage_scores(units.second - np.outer(around, around), options.leverage), count
    )


def keep_units(
    params: Params, chosen: Int[np.ndarray, "k"], units: Moments | None, options: Options
) -> dict[str, Any]:
    """The maps of the perceptron with some of its units; the last one rebuilt by their moments, if given."""
    found = {name: columns(params[name], chosen) for name in ("gate", "up") if name in params}
    down, bias = wide(params["down"]["kernel"]), params["down"].get("bias")
    if units is None:
        rebuilt, shift = down[chosen], 0.0
    elif bias is not None and options.affine:
        rebuilt, shift = linalg.reconstruct_affine(units.second, units.mean, chosen, down, options.ridge)
    else:
        rebuilt, shift = linalg.reconstruct(units.second, chosen, down, options.ridge), 0.0
    found["down"] = {"kernel": like(rebuilt, params["down"]["kernel"])}
    if bias is not None:
        found["down"]["bias"] = like(wide(bias) + shift, bias)
    return found


# -- queries and keys ---------------------------------------------------------------------------------------


def choose_keys(
    config: DecoderConfig, stats: Mapping[str, Moments], count: int, centred: bool
) -> Int[np.ndarray, "kv r"]:
    """The numbers of each head of keys that are kept, by the energy of the products they are in."""
    heads, size = config.kv_heads, config.head_size
    queries = stats["queries"].second.reshape(heads, -1, size)
    keys = stats["keys"].second - (stats["keys"].mean ** 2 if centred else 0.0)
    return choose_by(config, queries, keys.reshape(heads, size), count)


def choose_by(
    config: DecoderConfig, queries: Float[np.ndarray, "kv g h"], keys: Float[np.ndarray, "kv h"], count: int
) -> Int[np.ndarray, "kv r"]:
    """The same by any squares of queries and keys; whole pairs, both halves in order, where they rotate."""
    if config.family != "llama":
        scores = [linalg.dimension_scores(q, k) for q, k in zip(queries, keys, strict=True)]
        return np.stack([linalg.choose(each, count) for each in scores])
    scores = [linalg.pair_scores(q, k) for q, k in zip(queries, keys, strict=True)]
    return both_halves(config, np.stack([linalg.choose(each, count // 2) for each in scores]))


def both_halves(config: DecoderConfig, pairs: Int[np.ndarray, "kv p"]) -> Int[np.ndarray, "kv r"]:
    """Numbers of a head from those of its pairs."""
    return np.concatenate([pairs, pairs + config.head_size // 2], axis=1)


def keep_keys(config: DecoderConfig, params: Params, chosen: Int[np.ndarray, "kv r"]) -> dict[str, Any]:
    """Maps to queries and keys with some numbers of each head: those of the keys that queries meet."""
    size, group = config.head_size, config.heads // config.kv_heads
    of_keys = np.arange(config.kv_heads)[:, None] * size + chosen
    of_queries = np.arange(config.heads)[:, None] * size + np.repeat(chosen, group, axis=0)
    return {
        "query": columns(params["query"], of_queries.ravel()),
        "key": columns(params["key"], of_keys.ravel()),
    }


def as_pairs(config: DecoderConfig, chosen: Int[np.ndarray, "kv r"]) -> tuple[tuple[int, ...], ...]:
    """The rotary pairs of each head of keys; none for families that do not rotate."""
    if config.family != "llama":
        return ()
    return tuple(tuple(row[: len(row) // 2]) for row in chosen.tolist())


# -- values and outputs -------------------------------------------------------------------------------------


def narrow_values(
    config: DecoderConfig, params: Params, values: Moments, rank: int, options: Options
) -> dict[str, Any]:
    """Maps to values and from them to the stream, best for the values' moments at a smaller rank."""
    bias = "bias" in params["value"]
    mean = values.mean if bias and options.affine else np.zeros_like(values.mean)
    second = values.second - mean[:, :, None] * mean[:, None, :]
    into, back = split_values(config, params, mean)
    solve = linalg.value_output if options.joint else linalg.output_given_values
    parts = [
        solve(c, v, o.transpose(1, 0, 2).reshape(len(c), -1), rank)
        for c, v, o in zip(second, into, back, strict=True)
    ]
    narrow_out = [o.reshape(rank, -1, config.ends[0]).transpose(1, 0, 2) for _, o in parts]
    found = join_values(params, np.stack([v for v, _ in parts]), np.stack(narrow_out))
    if bias:
        # attention's weights add to 1: what is the same for all tokens passes as it is
        shift = np.einsum("kh,kghd->d", mean, back)
        found["out"]["bias"] = like(wide(params["out"]["bias"]) + shift, params["out"]["bias"])
    return found


def split_values(
    config: DecoderConfig, params: Params, mean: Float[np.ndarray, "kv h"]
) -> tuple[Float[np.ndarray, "kv d h"], Float[np.ndarray, "kv g h d"]]:
    """By heads of values: the map to them, whose last row is the bias less the mean; the maps from them."""
    kernel, bias = wide(params["value"]["kernel"]), params["value"].get("bias")
    rows = np.concatenate([kernel, (wide(bias) - mean.ravel())[None]]) if bias is not None else kernel
    heads = config.kv_heads
    out = wide(params["out"]["kernel"])
    into = rows.reshape(len(rows), heads, -1).transpose(1, 0, 2)
    return into, out.reshape(heads, config.heads // heads, -1, out.shape[-1])


def join_values(
    params: Params, into: Float[np.ndarray, "kv d r"], back: Float[np.ndarray, "kv g r d"]
) -> dict[str, Any]:
    """Parameters from maps by heads."""
    rows = into.transpose(1, 0, 2).reshape(into.shape[1], -1)
    value, out = dict(params["value"]), dict(params["out"])
    if "bias" in value:
        value["bias"], rows = like(rows[-1], value["bias"]), rows[:-1]
    value["kernel"] = like(rows, value["kernel"])
    out["kernel"] = like(back.reshape(-1, back.shape[-1]), out["kernel"])
    return {"value": value, "out": out}


# -- arrays -------------------------------------------------------------------------------------------------


def columns(part: Params, chosen: Int[np.ndarray, "k"]) -> dict[str, Any]:
    """A map with some of its outputs."""
    return {name: np.asarray(value)[..., chosen] for name, value in part.items()}


def wide(value: Any) -> Matrix:
    """In float64."""
    return np.asarray(value).astype(np.float64)


def like(value: Matrix, other: Any) -> Matrix:
    """In another array's type."""
    return value.astype(np.asarray(other).dtype)
