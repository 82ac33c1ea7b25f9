r"""How much each layer and each of its parts gives up, for a share of all of them.

    s_i = 1 - E cos(h_i, h_{i+1}),    phi_i = min(cap, L phi softmax(-s / epsilon)_i)

A layer's influence s is what it changes of the residual stream (Men et al. 2024, arXiv:2403.03853, eq. 1);
the softmax is the entropic solution of "remove most where influence is least" (Lin et al. 2025, eq. 10, 11).
What the cap cuts off goes to the other layers, so that the mean stays. Shares are of parameters of the
layers' linear maps: embeddings, norms and the head are not counted.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from diffax.checks import require
from diffax.models.decoder_lm import DecoderConfig, Layer

PARTS = {"mlp": ("gate", "up", "down"), "qk": ("query", "key"), "vo": ("value", "out")}


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


def part_shares(
    config: DecoderConfig, shares: Float[np.ndarray, "l"], weights: Sequence[float], cap: float
) -> Float[np.ndarray, "l 3"]:
    """Of hidden units, queries with keys, and values with outputs, in proportion to ``weights``."""
    return np.stack(
        [
            spread(np.asarray(weights, float), sizes_of(config, layer), float(share), max(cap, float(share)))
            for layer, share in zip(config.layers, shares, strict=True)
        ]
    )


def by_sensitivity(
    costs: Float[np.ndarray, "l 3 k"],
    steps: Float[np.ndarray, "k"],
    sizes: Float[np.ndarray, "l 3"],
    share: float,
) -> Float[np.ndarray, "l 3"]:
    """The parts' shares that cost least together, if costs add up.

    ``costs`` of removing the shares ``steps`` of one part alone. Between steps they are straight lines, below
    which the lower convex hull is taken: the cheapest piece first is then the optimum. Raises ValueError for
    a share that the last step of all parts does not reach.
    """
    most = float(steps[-1])
    require(share <= most, "ratio", share, f"at most {most}")
    pieces = []
    for part, curve in enumerate(costs.reshape(-1, len(steps))):
        size = sizes.ravel()[part]
        knots = hull(np.append(0.0, steps), np.append(0.0, np.maximum.accumulate(np.maximum(curve, 0.0))))
        for (x0, y0), (x1, y1) in itertools.pairwise(knots):
            pieces.append(((y1 - y0) / ((x1 - x0) * size), part, (x1 - x0)))
    found, left = np.zeros(sizes.size), share * sizes.sum()
    for _, part, width in sorted(pieces):
        step = min(width, left / sizes.ravel()[part])
        found[part] += step
        left -= step * sizes.ravel()[part]
    return found.reshape(sizes.shape)


def hull(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> list[tuple[float, float]]:
    """Corners of the lower convex hull of points in increasing order of x (Andrew 1979)."""
    corners: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0:
            corners.pop()
        corners.append(point)
    return corners


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def widths(config: DecoderConfig, parts: Float[np.ndarray, "l 3"], multiple: int = 1) -> tuple[Layer, ...]:
    """Of each layer, for its parts' shares; multiples of a number, for accelerators.

    Heads come in steps; hidden units make up for what these round.
    """
    return tuple(
        _widths(config, layer, share, multiple) for layer, share in zip(config.layers, parts, strict=True)
    )


def _widths(config: DecoderConfig, layer: Layer, share: Float[np.ndarray, "3"], multiple: int) -> Layer:
    sizes = part_sizes(config, layer)
    step = multiple // math.gcd(multiple, config.kv_heads)
    even = 2 if config.family == "llama" else 1
    keys = nearest(layer.keys * (1 - share[1]), math.lcm(step, even), layer.keys)
    values = nearest(layer.values * (1 - share[2]), step, layer.values)
    narrow = layer._replace(keys=keys, values=values)
    heads = part_sizes(config, narrow)
    left = float((1 - share) @ sizes_of(config, layer)) - heads["qk"] - heads["vo"]
    hidden = nearest(left / (sizes["mlp"] / layer.hidden), multiple, layer.hidden)
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


def sizes_of(config: DecoderConfig, layer: Layer) -> Float[np.ndarray, "3"]:
    """The same as numbers in the parts' order."""
    return np.array(list(part_sizes(config, layer).values()), float)


def layer_parameters(config: DecoderConfig, layers: Sequence[Layer]) -> int:
    """Of all linear maps of some layers, shortcuts and second factors as well, without biases."""
    return sum(into * out for layer in layers for into, out in config.maps(layer).values())
