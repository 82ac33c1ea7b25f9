"""A checkpoint run layer by layer, all texts through one layer before the next: memory for one layer alone.

The residual streams of all texts lie on the host, or in a file; the device holds a layer's weights, a batch
of streams, and the moments that are asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffax.io.decoder_files import DecoderFiles
from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderBlock, DecoderConfig, DecoderLM, Layer
from diffax.types import Params

Streams = np.ndarray  # (texts, tokens, width), in the type of the computation
Tick = Callable[[], None]


class Runner:
    """Runs parts of a decoder on batches of whole texts."""

    def __init__(self, files: DecoderFiles, batch: int = 8, dtype: Any = jnp.float32) -> None:
        self.files, self.config = files, files.config
        self.batch, self.dtype = batch, jnp.dtype(dtype)

    def embed(self, ends: Params, tokens: Int[np.ndarray, "n t"], out: Streams) -> None:
        """The streams before the first layer."""
        for rows in self.rows(len(tokens)):
            out[rows] = _embed(self._model, ends, jnp.asarray(tokens[rows]))

    def layer(
        self, number: int, params: Params, streams: Streams, out: Streams, moments: Mapping[str, Moments] = {}
    ) -> float:
        """Streams after a layer into ``out``, its activations into ``moments``; the layer's influence."""
        block = DecoderBlock(self.config, self.config.layers[number], self.dtype)
        params = jax.device_put(jax.tree.map(self._cast, params))
        turned = []
        for rows in self.rows(len(streams)):
            h = jnp.array(streams[rows])  # a copy: ``out`` may be the same array
            after, kept = _layer(block, tuple(sorted(moments)), params, h)
            for name, moment in moments.items():
                moment.add(
                    _normalise({"before": h, "after": after}[name])
                    if name in ("before", "after")
                    else kept[name]
                )
            if after.shape == h.shape:
                turned.append(np.asarray(_cosines(h, after), np.float64))
            out[rows] = after
        return float(1 - np.mean(np.concatenate(turned))) if turned else 0.0

    def logits(self, ends: Params, streams: Streams) -> Iterator[Float[Array, "b t v"]]:
        """Of each batch, after the last layer."""
        for rows in self.rows(len(streams)):
            yield _logits(self._model, ends, jnp.asarray(streams[rows]))

    def rows(self, count: int) -> list[slice]:
        """The batches."""
        return [slice(first, min(count, first + self.batch)) for first in range(0, count, self.batch)]

    def new_streams(self, tokens: Int[np.ndarray, "n t"], width: int) -> Streams:
        """Room for them."""
        return np.empty((*tokens.shape, width), self.dtype)

    @property
    def _model(self) -> DecoderLM:
        return DecoderLM(self.config, self.dtype)

    def _cast(self, value: Any) -> Array:
        return jnp.asarray(value).astype(self.dtype)


def make_moments(config: DecoderConfig, layer: Layer, needs: Sequence[str]) -> dict[str, Moments]:
    """Empty ones of a layer's activations, by their names."""
    before, middle, after = layer.stream or (config.width,) * 3
    known: dict[str, Callable[[], Moments]] = {
        "units": partial(Moments, layer.hidden),
        "queries": partial(Moments, config.heads * layer.keys, full=False),
        "keys": partial(Moments, config.kv_heads * layer.keys, full=False),
        "values": partial(Moments, layer.values, groups=config.kv_heads),
        "attention_in": partial(Moments, before),
        "mixed": partial(Moments, config.heads * layer.values),
        "mlp_in": partial(Moments, middle),
        "before": partial(Moments, before),
        "middle": partial(Moments, middle),
        "after": partial(Moments, after),
    }
    return {name: known[name]() for name in needs}


@partial(jax.jit, static_argnums=0)
def _embed(model: DecoderLM, ends: Params, tokens: Array) -> Array:
    start = jnp.zeros(len(tokens), jnp.int32)
    return model.apply({"params": ends}, tokens, jnp.arange(tokens.shape[1]), start, method="read")


@partial(jax.jit, static_argnums=(0, 1))
def _layer(
    block: DecoderBlock, names: tuple[str, ...], params: Params, h: Array
) -> tuple[Array, dict[str, Array]]:
    """A layer on whole texts, and those of its activations that are asked for, with heads side by side."""
    start, places = jnp.zeros(len(h), jnp.int32), jnp.arange(h.shape[1])
    (after, _), found = block.apply({"params": params}, h, places, start, mutable=["features"])
    kept = {name: value for name, value in found["features"].items() if name in names}
    if "middle" in kept:
        kept["middle"] = _normalise(kept["middle"])
    return after, {name: value.reshape(*h.shape[:2], -1) for name, value in kept.items()}


@partial(jax.jit, static_argnums=0)
def _logits(model: DecoderLM, ends: Params, h: Array) -> Array:
    return model.apply({"params": ends}, h, method="logits")


@jax.jit
def _normalise(h: Array) -> Array:
    """Every token's stream at length sqrt(width), as norms see it."""
    h = h.astype(jnp.float32)
    return h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-12)


@jax.jit
def _cosines(a: Array, b: Array) -> Array:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.maximum(lengths, 1e-30)
