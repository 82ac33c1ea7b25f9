r"""Decoders of language: the Llama and the OPT family, with widths that may differ by layer.

    h      = embed(tokens) (+ positions[i + 2], OPT)
    h      = h + out(softmax(q k^T / sqrt(head_size)) v),  q = rotate(query(n)), k = rotate(key(n)),
                                                            v = value(n)
    h      = h + down(silu(gate(n)) * up(n))      # OPT: down(relu(up(n))), and nothing is rotated
    logits = norm(h) W                            # n = norm(h): root mean square, OPT: mean and variance

Several heads of queries may share one of keys and values. A rotation turns the pairs of numbers (i, i + r/2)
of a head by the position times the pair's frequency. A compressed layer keeps some of the pairs, at their
frequencies, and fewer values, at the scale of the whole head. Sources: Touvron et al. 2023
(arXiv:2302.13971), Su et al. 2021 (arXiv:2104.09864), Zhang et al. 2022 (arXiv:2205.01068).
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from diffax.checks import require, require_number, require_one_of
from diffax.models.features import keep
from diffax.models.layers.conv import dense

FAMILIES = ("llama", "opt")
ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu, "gelu": nn.gelu}
ROPES = ("default", "linear", "llama3")
_OFFSET = 2  # of OPT's table of positions


class Layer(NamedTuple):
    """Widths of one layer: ``hidden`` units, ``keys`` and ``values`` numbers of a head; the rotary ``pairs``
    that each head of keys has, or () for all.

    ``ranks``: maps by name that are products of two, ``{name}_in`` before them, with their inner widths.
    ``stream``: widths of the residual stream before attention, before the perceptron and after it, joined by
    the maps ``turn_attention`` and ``turn_mlp``; () where the stream is as wide everywhere.
    """

    hidden: int
    keys: int
    values: int
    pairs: tuple[tuple[int, ...], ...] = ()
    ranks: tuple[tuple[str, int], ...] = ()
    stream: tuple[int, ...] = ()


class Rope(NamedTuple):
    """Frequencies ``theta^(-2 i / head_size)``; "linear": divided by ``factor``; "llama3": divided where they
    turn fewer than ``low`` times over the ``original`` positions, not where more than ``high``, and blended
    between."""

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


@dataclass(frozen=True)
class DecoderConfig:
    """Everything but the weights; hashable.

    ``vocabulary`` tokens; ``width`` of the residual stream; ``heads`` of queries, ``kv_heads`` of keys and
    values, a divisor; ``head_size`` before compression, which sets scale and frequencies; ``positions``: the
    longest text; ``tied``: whether the head is the embedding; ``bias``: of all linear maps but the head.
    """

    vocabulary: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    layers: tuple[Layer, ...]
    positions: int = 2048
    family: str = "llama"
    activation: str = "silu"
    bias: bool = False
    tied: bool = False
    norm_epsilon: float = 1e-5
    rope: Rope = field(default_factory=Rope)

    def check(self) -> "DecoderConfig":
        """Itself; ValueError, naming the field, for what no decoder has."""
        require_one_of("family", self.family, FAMILIES)
        require_one_of("activation", self.activation, ACTIVATIONS)
        require_one_of("rope.kind", self.rope.kind, ROPES)
        for name in ("vocabulary", "width", "heads", "kv_heads", "head_size", "positions"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an integer >= 1")
        require(
            self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of {self.heads} heads"
        )
        require_number("norm_epsilon", self.norm_epsilon, 0.0, 1.0, "a number in (0, 1)")
        require(len(self.layers) >= 1, "layers", len(self.layers), "one or more")
        for number, layer in enumerate(self.layers):
            self._check_layer(f"layers[{number}]", layer)
            self._check_stream(number, layer)
        return self

    def _check_stream(self, number: int, layer: Layer) -> None:
        where, stream = f"layers[{number}].stream", layer.stream
        require(len(stream) in (0, 3) and min(stream, default=1) >= 1, where, stream, "() or three widths")
        before = self.layers[max(0, number - 1)].stream
        joined = bool(stream) == bool(before) and (number == 0 or before[2:] == stream[:1])
        require(joined, where, stream, f"what follows {before}")
        require(not (stream and self.tied), "tied", True, "False where the stream's width changes")
        known = tuple(self.maps(layer._replace(ranks=())))
        for name, rank in layer.ranks:
            require_one_of(f"layers[{number}].ranks", name, known)
            require(rank >= 1, f"layers[{number}].ranks: {name}", rank, "an integer >= 1")

    def _check_layer(self, where: str, layer: Layer) -> None:
        least = min(layer.hidden, layer.keys, layer.values)
        require(least >= 1, where, layer[:3], "widths of 1 or more")
        if self.family != "llama":
            return
        even = layer.keys % 2 == 0 and layer.keys <= self.head_size
        require(even, f"{where}.keys", layer.keys, f"an even number up to {self.head_size}")
        whole = not layer.pairs and layer.keys == self.head_size
        chosen = len(layer.pairs) == self.kv_heads and all(
            len(set(some)) == len(some) == layer.keys // 2 and set(some) <= set(range(self.head_size // 2))
            for some in layer.pairs
        )
        allowed = f"{layer.keys // 2} different pairs of each head of keys"
        require(whole or chosen, f"{where}.pairs", layer.pairs[:1], allowed)

    def maps(self, layer: Layer) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear map of a layer, in the order in which they are applied."""
        before, middle, after = layer.stream or (self.width,) * 3
        mixed, gated = self.heads * layer.values, self.family == "llama"
        found = {
            "query": (before, self.heads * layer.keys),
            "key": (before, self.kv_heads * layer.keys),
            "value": (before, self.kv_heads * layer.values),
            "out": (mixed, middle),
            **({"turn_attention": (before, middle)} if layer.stream else {}),
            **({"gate": (middle, layer.hidden)} if gated else {}),
            "up": (middle, layer.hidden),
            "down": (layer.hidden, after),
            **({"turn_mlp": (middle, after)} if layer.stream else {}),
        }
        for name, rank in layer.ranks:
            into, out = found[name]
            found |= {f"{name}_in": (into, rank), name: (rank, out)}
        return found

    @property
    def ends(self) -> tuple[int, int]:
        """Widths of the stream where tokens enter it and where the head reads it."""
        first, last = self.layers[0].stream, self.layers[-1].stream
        return (first[0] if first else self.width), (last[2] if last else self.width)

    def frequencies(self, layer: Layer) -> Float[np.ndarray, "kv r"]:
        """Radians a position of each pair of each head of keys, float64."""
        whole = rotary_frequencies(self.rope, self.head_size)
        pairs = layer.pairs or (tuple(range(self.head_size // 2)),) * self.kv_heads
        return whole[np.asarray(pairs)]


@struct.dataclass
class KVCache:
    """What layers keep of the tokens so far: of each rotated keys (b, s, kv, r) and values (b, s, kv, v);
    ``used`` columns; ``start``: each text's first column, after padding on the left."""

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    used: Int[Array, ""]
    start: Int[Array, "b"]


class DecoderBlock(nn.Module):
    """One layer, usable by itself; ``layer`` says how wide."""

    config: DecoderConfig
    layer: Layer
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "b t d"],
        columns: Int[Array, "t"],
        start: Int[Array, "b"],
        past: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b t e"], tuple[Array, Array]]:
        """The stream after the layer; keys and values of these tokens, or ``past`` with them written in."""
        n = make_norm(self.config, self.dtype, "norm_attention")(h)
        keep(self, "attention_in", n)
        mixed, past = self.attend(n, columns, start, past)
        keep(self, "mixed", mixed)
        h = self._shortcut(h, "turn_attention") + self._map(mixed, "out")
        keep(self, "middle", h)
        n = make_norm(self.config, self.dtype, "norm_mlp")(h)
        keep(self, "mlp_in", n)
        units = self.activate(n)
        keep(self, "units", units)
        return self._shortcut(h, "turn_mlp") + self._map(units, "down"), past

    @nn.nowrap
    def attend(
        self, n: Float[Array, "b t d"], columns: Int[Array, "t"], start: Int[Array, "b"], past: Any
    ) -> tuple[Float[Array, "b t hv"], tuple[Array, Array]]:
        """Values mixed over those tokens of the same text that are not later."""
        config, layer = self.config, self.layer
        sizes = ((config.heads, layer.keys), (config.kv_heads, layer.keys), (config.kv_heads, layer.values))
        q, k, v = (
            self._map(n, name).reshape(*n.shape[:2], *size)
            for name, size in zip(("query", "key", "value"), sizes, strict=True)
        )
        if config.family == "llama":
            q, k = self.rotate(q, k, columns - start[:, None])
        for name, value in (("queries", q), ("keys", k), ("values", v)):
            keep(self, name, value)
        if past is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), columns[0], axis=1)
                for old, new in zip(past, (k, v), strict=True)
            )
        return attention(q, k, v, columns, start, config.head_size), (k, v)

    @nn.nowrap
    def rotate(
        self, q: Float[Array, "b t h r"], k: Float[Array, "b t kv r"], positions: Int[Array, "b t"]
    ) -> tuple[Array, Array]:
        """Turn every pair by its position times its frequency, in float32."""
        frequencies = jnp.asarray(self.config.frequencies(self.layer), jnp.float32)
        angles = positions[..., None, None].astype(jnp.float32) * frequencies
        group = self.config.heads // self.config.kv_heads
        return rotate_pairs(q, jnp.repeat(angles, group, axis=2)), rotate_pairs(k, angles)

    @nn.nowrap
    def activate(self, n: Float[Array, "b t d"]) -> Float[Array, "b t f"]:
        """Hidden units."""
        act = ACTIVATIONS[self.config.activation]
        up = self._map(n, "up")
        return act(self._map(n, "gate")) * up if self.config.family == "llama" else act(up)

    @nn.nowrap
    def _map(self, x: Array, name: str) -> Array:
        sizes = self.config.maps(self.layer)
        if f"{name}_in" in sizes:
            x = dense(sizes[f"{name}_in"][1], bias=False, dtype=self.dtype, name=f"{name}_in")(x)
        return dense(sizes[name][1], bias=self.config.bias, dtype=self.dtype, name=name)(x)

    @nn.nowrap
    def _shortcut(self, h: Array, name: str) -> Array:
        if not self.layer.stream:
            return h
        width = self.config.maps(self.layer)[name][1]
        return dense(width, bias=False, dtype=self.dtype, name=name)(h)


class DecoderLM(nn.Module):
    """A language model, ``model.apply({"params": p}, tokens) -> logits``, float32.

    ``tokens`` Int["b t"]; ``start`` Int["b"], where texts are padded on the left, their first columns.
    ``model.apply({"params": p}, tokens, cache, method="extend")`` goes on from a cache (:func:`empty_cache`).
    ``dtype`` is that of the computation; norms' moments, rotations, the softmax and logits are float32.
    Raises ValueError for a configuration that no decoder has, and texts that are too long.
    """

    config: DecoderConfig
    dtype: Any = None

    def setup(self) -> None:
        """Layers by number."""
        config = self.config.check()
        normal, (first, last) = nn.initializers.normal(0.02), config.ends
        self.embed = self.param("embed", normal, (config.vocabulary, first))
        if config.family == "opt":
            self.table = self.param("positions", normal, (config.positions + _OFFSET, first))
        self.layers = [DecoderBlock(config, layer, self.dtype) for layer in config.layers]
        self.norm = make_norm(config, self.dtype, None)
        if not config.tied:
            self.head = self.param("head", normal, (last, config.vocabulary))

    def __call__(
        self, tokens: Int[Array, "b t"], start: Int[Array, "b"] | None = None
    ) -> Float[Array, "b t v"]:
        """Logits of the token after each."""
        first = jnp.zeros(tokens.shape[0], jnp.int32) if start is None else start
        columns = jnp.arange(tokens.shape[1])
        h = self.read(tokens, columns, first)
        for number, block in enumerate(self.layers):
            h, _ = block(h, columns, first)
            keep(self, f"hidden{number}", h)
        return self.logits(h)

    def extend(self, tokens: Int[Array, "b t"], cache: KVCache) -> tuple[Float[Array, "b t v"], KVCache]:
        """Logits of the token after each of those that follow the cache's, and the cache with them."""
        columns = cache.used + jnp.arange(tokens.shape[1])
        h, found = self.read(tokens, columns, cache.start), []
        for block, k, v in zip(self.layers, cache.keys, cache.values, strict=True):
            h, kept = block(h, columns, cache.start, (k, v))
            found.append(kept)
        keys, values = zip(*found, strict=True)
        return self.logits(h), KVCache(keys, values, cache.used + tokens.shape[1], cache.start)

    def read(
        self, tokens: Int[Array, "b t"], columns: Int[Array, "t"], start: Int[Array, "b"]
    ) -> Float[Array, "b t d"]:
        """Tokens, and positions where they are learned, as vectors."""
        longest = self.config.positions
        require(tokens.shape[1] <= longest, "tokens.shape", tokens.shape, f"at most {longest} positions")
        h = jnp.take(self.embed, tokens, axis=0)  # NaN for tokens that are none
        if self.config.family == "opt":
            places = jnp.maximum(columns - start[:, None], 0) + _OFFSET
            h = h + jnp.take(self.table, places, axis=0)
        return h.astype(self.dtype or h.dtype)

    def logits(self, h: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """The head over the normalised stream."""
        head = self.embed.T if self.config.tied else self.head
        n = self.norm(h)
        return jnp.matmul(n, head.astype(n.dtype), preferred_element_type=jnp.float32)


def empty_cache(
    config: DecoderConfig,
    batch: int,
    columns: int,
    start: Int[Array, "b"] | None = None,
    dtype: Any = jnp.float32,
) -> KVCache:
    """Room for so many columns, with none used."""
    require(columns <= config.positions, "columns", columns, f"at most {config.positions} positions")
    shape = (batch, columns, config.kv_heads)
    keys = tuple(jnp.zeros((*shape, layer.keys), dtype) for layer in config.layers)
    values = tuple(jnp.zeros((*shape, layer.values), dtype) for layer in config.layers)
    first = jnp.zeros(batch, jnp.int32) if start is None else start
    return KVCache(keys, values, jnp.zeros((), jnp.int32), first)


def attention(
    q: Float[Array, "b t h r"],
    k: Float[Array, "b s kv r"],
    v: Float[Array, "b s kv v"],
    columns: Int[Array, "t"],
    start: Int[Array, "b"],
    head_size: int,
) -> Float[Array, "b t hv"]:
    """Causal attention from ``columns`` over s columns, of which each text's begin at ``start``."""
    batch, length, heads, _ = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], -1)
    scores = jnp.einsum("btkgr,bskr->bkgts", grouped, k, preferred_element_type=jnp.float32)
    seen = jnp.arange(k.shape[1])
    allowed = (seen <= columns[:, None]) & (seen >= start[:, None, None])  # (b, t, s)
    scores = jnp.where(allowed[:, None, None], scores / math.sqrt(head_size), -1e30)
    mixed = jnp.einsum("bkgts,bskv->btkgv", jax.nn.softmax(scores).astype(v.dtype), v)
    return mixed.reshape(batch, length, -1)


def rotate_pairs(x: Float[Array, "b t h r"], angles: Float[Array, "b t h r2"]) -> Float[Array, "b t h r"]:
    """Numbers i and i + r/2 of each head as points of a plane, turned."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def rotary_frequencies(rope: Rope, head_size: int) -> Float[np.ndarray, "r"]:
    """Of all pairs of a whole head, in radians a position."""
    plain = rope.theta ** -(np.arange(0, head_size, 2) / head_size)
    if rope.kind == "default":
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    turns = rope.original * plain / (2 * np.pi)  # over the original context
    share = np.clip((turns - rope.low) / (rope.high - rope.low), 0, 1)
    return plain * (share + (1 - share) / rope.factor)


def make_norm(config: DecoderConfig, dtype: Any, name: str | None) -> nn.Module:
    """Of the family."""
    kind: Any = nn.RMSNorm if config.family == "llama" else nn.LayerNorm
    return kind(epsilon=config.norm_epsilon, dtype=dtype, name=name)


def uniform_layers(count: int, hidden: int, head_size: int) -> tuple[Layer, ...]:
    """Layers that are all whole."""
    return (Layer(hidden, head_size, head_size),) * count
