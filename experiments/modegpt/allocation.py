r"""How much each layer and each of its parts gives up, for a share of all of them.

    s_i = 1 - E cos(h_i, h_{i+1}),    phi_i = min(cap, L phi softmax(-s / epsilon)_i)

A layer's influence s is what it changes of the residual stream (Men et al. 2024, arXiv:2403.03853, eq. 1);
the softmax is the entropic solution of "remove most where influence is least" (Lin et al. 2025, eq. 10, 11).
What the cap cuts off goes to the other layers, so that the mean stays. Shares are of parameters of the
layers' linear maps: embeddings, norms and the head are not counted.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffax.checks import require
from diffax.models.decoder_lm import DecoderConfig, Layer

PARTS = {"mlp": ("gate", "up", "down"), "qk": ("query", "key"), "vo": ("value", "out")}


class Allocation(NamedTuple):
    """``weights``: how much hidden units, queries with keys, and values with outputs give up, relative to
    each other; ``cap``: the most that any may; ``multiple``: of which widths are, for accelerators."""

    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    cap: float = 0.8
    multiple: int = 1


def by_influence(
    influence: Float[np.ndarray, "l"], share: float, epsilon: float, cap: float
) -> Float[np.ndarray, "l"]:
    """Each layer's share, by :mod:`its formula <experiments.modegpt.allocation>`; ``epsilon`` inf: equal."""
    require(epsilon > 0, "epsilon", epsilon, "a number > 0")
    logits = -np.asarray(influence) / epsilon
    return spread(np.exp(logits - logits.max()), np.ones(len(logits)), share, cap)


def spread(
    weights: Float[np.ndarray, "n"], sizes: Float[np.ndarray, "n"], share: float, cap: float
) -> Float[np.ndarray, "n"]:
    """Shares in proportion to ``weights``, at most ``cap``, whose mean by ``sizes`` is ``share``.

    Raises ValueError where parts of positive weight, at the cap, do not reach it.
    """
    most = float(cap * sizes[weights > 0].sum() / sizes.sum())
    require(share <= most + 1e-12, "ratio", share, f"at most {most:.3f}, with a cap of {cap}")
    full = np.zeros(len(weights), bool)
    while True:
        left = share * sizes.sum() - cap * sizes[full].sum()
        open_weights = np.where(full, 0.0, weights)
        total = float(open_weights @ sizes)
        found = np.where(full, cap, open_weights * (left / total if total else 0.0))
        over = (found > cap) & ~full
        if not over.any():
            return found
        full |= over


def widths(
    config: DecoderConfig, shares: Float[np.ndarray, "l"], allocation: Allocation
) -> tuple[Layer, ...]:
    """Of each layer, for its share.

    Heads come in steps; hidden units make up for what these round.
    """
    return tuple(
        _widths(config, layer, float(share), allocation)
        for layer, share in zip(config.layers, shares, strict=True)
    )


def _widths(config: DecoderConfig, layer: Layer, share: float, allocation: Allocation) -> Layer:
    if share == 0:
        return layer
    sizes = part_sizes(config, layer)
    counts = np.array(list(sizes.values()), float)
    weights = np.asarray(allocation.weights, float)
    _, qk, vo = spread(weights, counts, share, max(allocation.cap, share))
    step = allocation.multiple // math.gcd(allocation.multiple, config.kv_heads)
    even = 2 if config.family == "llama" else 1
    keys = nearest(layer.keys * (1 - qk), math.lcm(step, even), layer.keys)
    values = nearest(layer.values * (1 - vo), step, layer.values)
    narrow = layer._replace(keys=keys, values=values)
    heads = part_sizes(config, narrow)
    left = (1 - share) * counts.sum() - heads["qk"] - heads["vo"]
    hidden = nearest(left / (sizes["mlp"] / layer.hidden), allocation.multiple, layer.hidden)
    return narrow._replace(hidden=hidden)


def nearest(width: float, multiple: int, most: int) -> int:
    """The multiple that is nearest, at least one of it; or all."""
    if width >= most or multiple >= most:
        return most
    return min(most, max(1, round(width / multiple)) * multiple)


def part_sizes(config: DecoderConfig, layer: Layer) -> dict[str, int]:
    """Parameters of each part of a layer, without biases."""
    sizes = {name: into * out for name, (into, out) in config.maps(layer).items()}
    return {part: sum(sizes.get(name, 0) for name in names) for part, names in PARTS.items()}


def layer_parameters(config: DecoderConfig, layers: Sequence[Layer]) -> int:
    """Of all linear maps of some layers, shortcuts and second factors as well, without biases."""
    return sum(into * out for layer in layers for into, out in config.maps(layer).values())
