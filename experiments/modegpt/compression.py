"""A smaller decoder from a checkpoint and what its layers show on calibration text, in memory.

:mod:`experiments.modegpt.streaming` does the same a layer at a time, for models that are larger than it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffax.checks import require, require_number, require_one_of
from diffax.io.decoder_files import DecoderFiles
from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params
from experiments.modegpt import baselines
from experiments.modegpt.allocation import by_influence, part_shares
from experiments.modegpt.method import Job, Options
from experiments.modegpt.methods import METHODS, Method
from experiments.modegpt.runner import Runner, make_moments

ALLOCATIONS = ("influence", "uniform", "sensitivity")


class Settings(NamedTuple):
    """What to do, with ``options`` of the method.

    ``ratio``: the share of the layers' parameters to go; ``allocation``: "influence" over layers, with
    ``epsilon``, or "uniform", and by ``weights`` over a layer's hidden units, queries with keys, and values
    with outputs, none of which loses more than ``cap``; or "sensitivity", by what removing each part of each
    layer costs. ``multiple``: of which widths are, for accelerators.
    """

    method: str = "modegpt"
    ratio: float = 0.3
    allocation: str = "sensitivity"
    epsilon: float = 0.1
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    cap: float = 0.8
    multiple: int = 1
    options: Options = Options()

    def check(self) -> "Settings":
        """Itself; ValueError for what is out of range."""
        require_one_of("method", self.method, METHODS)
        require_one_of("allocation", self.allocation, ALLOCATIONS)
        require(0 <= self.ratio < 1, "ratio", self.ratio, "a number in [0, 1)")
        require_number("epsilon", self.epsilon, 0.0, 1e9, "a number > 0")
        require_number("cap", self.cap, 0.0, 1.0, "a number in (0, 1)")
        require(self.multiple >= 1, "round_to", self.multiple, "an integer >= 1")
        right = len(self.weights) == 3 and min(self.weights) >= 0 and max(self.weights) > 0
        require(right, "module_weights", self.weights, "three numbers >= 0, one of them > 0")
        require_number("ridge", self.options.ridge, 0.0, 1e9, "a number > 0")
        require_number("leverage", self.options.leverage, 0.0, 1e9, "a number > 0")
        return self


Visit = Callable[[int, Params, Mapping[str, Moments]], None]


def open_whole(folder: str) -> DecoderFiles:
    """A checkpoint to compress; ValueError for one that is compressed already."""
    files = DecoderFiles(folder)
    config = files.config
    first = Layer(config.layers[0].hidden, config.head_size, config.head_size)
    whole = all(layer == first for layer in config.layers)
    require(whole, "--model", folder, "a checkpoint whose layers are whole; this one is compressed already")
    return files


class Gathered(NamedTuple):
    """What one layer shows on calibration text."""

    moments: Mapping[str, Moments]
    influence: float


def gather(
    runner: Runner, tokens: Int[np.ndarray, "n t"], needs: tuple[str, ...], visit: Visit | None = None
) -> list[Gathered]:
    """Of all layers at once, for models whose moments fit into memory: many ratios from one walk."""
    config, found = runner.config, []
    streams = runner.new_streams(tokens, config.ends[0])
    runner.embed(runner.files.ends(), tokens, streams)
    for number, layer in enumerate(config.layers):
        moments = make_moments(config, layer, needs)
        params = runner.files.layer(number)
        influence = runner.layer(number, params, streams, streams, moments)
        if visit:
            visit(number, params, moments)
        found.append(Gathered(moments, influence))
    return found


def compress(
    files: DecoderFiles,
    gathered: Sequence[Gathered],
    settings: Settings,
    parts: Float[np.ndarray, "l 3"] | None = None,
) -> tuple[DecoderConfig, dict[str, Any]]:
    """The smaller decoder and its parameters, in memory; ``parts``: shares that are known already."""
    settings, config = settings.check(), files.config
    method = METHODS[settings.method]
    parts = shares(config, [each.influence for each in gathered], settings) if parts is None else parts
    targets = method.targets(config, parts, settings.multiple)
    made = [
        method.layer(Job(config, number, files.layer(number), of(method, each), target, settings.options))
        for number, (each, target) in enumerate(zip(gathered, targets, strict=True))
    ]
    ends = files.ends()
    if method.turns:
        first, last = gathered[0].moments["before"].second, gathered[-1].moments["after"].second
        ends = baselines.slice_ends(config, ends, first, last, targets[0])
    params = {f"layers_{number}": params for number, (_, params) in enumerate(made)}
    return finished(config, tuple(layer for layer, _ in made)), {**ends, **params}


def of(method: Method, gathered: Gathered) -> dict[str, Moments]:
    """The moments that a method may look at."""
    return {name: gathered.moments[name] for name in method.needs}


def shares(config: DecoderConfig, influence: Sequence[float], settings: Settings) -> Float[np.ndarray, "l 3"]:
    """What each part of each layer gives up, unless by sensitivity."""
    equal = settings.allocation == "uniform"
    epsilon = math.inf if equal else settings.epsilon
    layers = by_influence(np.asarray(influence), settings.ratio, epsilon, max(settings.cap, settings.ratio))
    return part_shares(config, layers, settings.weights, settings.cap)


def finished(config: DecoderConfig, layers: tuple[Layer, ...]) -> DecoderConfig:
    """The configuration with other layers; a head that was tied is none where the stream turns."""
    return replace(config, layers=layers, tied=config.tied and not layers[0].stream)
