"""What a part of a layer is worth: how far the model's words move when only that part is compressed.

Layers that are tried are padded to their whole widths: all trials are one compiled program, and memory is
that of one layer and the trials' residual streams, whatever the number of layers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffax.evaluation.text import token_divergence
from diffax.io.decoder_writer import pad_layer
from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params
from experiments.modegpt.allocation import PARTS, by_sensitivity, sizes_of, widths
from experiments.modegpt.compression import Settings
from experiments.modegpt.method import Job
from experiments.modegpt.methods import METHODS
from experiments.modegpt.runner import Runner, Streams

STEPS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
_TEXTS = 8  # that trials are measured on


class Trials:
    """Trials of layers in order, from layer ``first`` on, on some of the calibration text."""

    def __init__(self, runner: Runner, tokens: Int[np.ndarray, "n t"], first: int = 0) -> None:
        self.runner, tokens = runner, tokens[:_TEXTS]
        self._ends = runner.files.ends()
        streams = runner.new_streams(tokens, runner.config.width)
        runner.embed(self._ends, tokens, streams)
        self._follow(streams, 0, first)
        self.before = streams.copy()
        self._follow(streams, first, len(runner.config.layers))
        self._final = streams

    def measure(
        self, number: int, params: Params, moments: Mapping[str, Moments], settings: Settings
    ) -> Float[np.ndarray, "3 k"]:
        """Nats a token from the model to itself with a share, of :data:`STEPS`, of one part gone."""
        config, targets = self.runner.config, np.empty((len(PARTS), len(STEPS)), object)
        for part, step in np.ndindex(*targets.shape):
            shares = np.zeros((len(config.layers), len(PARTS)))
            shares[number, part] = STEPS[step]
            targets[part, step] = widths(config, shares, settings.multiple)[number]
        distinct = list(dict.fromkeys(targets.ravel()))  # small heads have few steps
        made = (narrowed(config, number, params, moments, target, settings) for target in distinct)
        costs = dict(zip(distinct, self._costs(number, made, len(distinct)), strict=True))
        self.runner.layer(number, params, self.before, self.before)
        return np.vectorize(costs.get, otypes=[float])(targets)

    def _costs(self, number: int, made: Iterable[Params], count: int) -> list[float]:
        """Of each trial; all go through the layers that follow together, which are read once."""
        streams = np.repeat(self.before[None], count, axis=0)
        for each, params in zip(streams, made, strict=True):
            self.runner.layer(number, params, each, each)
        self._follow(streams.reshape(-1, *streams.shape[2:]), number + 1, len(self.runner.config.layers))
        return [self._distance(each) for each in streams]

    def _distance(self, streams: Streams) -> float:
        total, both = 0.0, (self.runner.logits(self._ends, each) for each in (self._final, streams))
        for p, q in zip(*both, strict=True):
            total += float(jnp.sum(token_divergence(p, q)))
        return total / (streams.shape[0] * streams.shape[1])

    def _follow(self, streams: Streams, first: int, end: int) -> None:
        for number in range(first, end):
            self.runner.layer(number, self.runner.files.layer(number), streams, streams)


def allocate(
    config: DecoderConfig, costs: Float[np.ndarray, "l 3 k"], ratio: float
) -> Float[np.ndarray, "l 3"]:
    """Shares of all parts at the least cost together."""
    sizes = np.stack([sizes_of(config, layer) for layer in config.layers])
    return by_sensitivity(costs, np.asarray(STEPS), sizes, ratio)


def narrowed(
    config: DecoderConfig,
    number: int,
    params: Params,
    moments: Mapping[str, Moments],
    target: Layer,
    settings: Settings,
) -> dict[str, Any]:
    """The layer at a target, with zeros put back."""
    method = METHODS[settings.method]
    layer, made = method.layer(Job(config, number, params, moments, target, settings.options))
    layers = (*config.layers[:number], layer, *config.layers[number + 1 :])
    padded = pad_layer(replace(config, layers=layers), layer, made, config.layers[number])[1]
    return jax.tree.map(np.asarray, padded)
