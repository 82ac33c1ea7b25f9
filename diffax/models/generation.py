"""Text from a decoder, a token at a time, in one compiled loop with a cache of keys and values."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffax.checks import require
from diffax.models.decoder_lm import DecoderLM, KVCache, empty_cache
from diffax.types import Keys, Params


class Choice(NamedTuple):
    """How the next token follows from logits: the likeliest at ``temperature`` 0, else drawn from
    ``softmax(logits / temperature)`` over the ``top_k`` likeliest (0: all), and of these over the fewest
    whose probabilities reach ``top_p`` (Holtzman et al. 2020, arXiv:1904.09751, section 3.1).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self) -> "Choice":
        """Itself; ValueError for numbers out of range."""
        require(0 <= self.temperature < 1e3, "temperature", self.temperature, "a number in [0, 1000)")
        require(self.top_k >= 0, "top_k", self.top_k, "an integer >= 0")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "a number in (0, 1]")
        return self

    @property
    def draws(self) -> bool:
        """Whether it needs keys."""
        return self.temperature != 0

    def __call__(self, logits: Float[Array, "b v"], keys: Keys) -> Int[Array, "b"]:
        """A token for each row, by its own key."""
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(keys, self.keep(logits / self.temperature)).astype(jnp.int32)

    def keep(self, logits: Float[Array, "b v"]) -> Float[Array, "b v"]:
        """Logits with those that are not drawn from at minus infinity."""
        if 0 < self.top_k < logits.shape[-1]:
            least = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p < 1:
            ordered = jnp.sort(logits, axis=-1, descending=True)
            shares = jax.nn.softmax(ordered)
            before = jnp.cumsum(shares, axis=-1) - shares  # of all that are likelier
            least = jnp.min(jnp.where(before < self.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return logits


class Temperatures(NamedTuple):
    """A temperature for each row, traced: one compiled program for all of them; 0 takes the likeliest."""

    values: Float[Array, "b"]

    def check(self) -> "Temperatures":
        """Itself: values are known when it runs only."""
        return self

    @property
    def draws(self) -> bool:
        """Whether it needs keys."""
        return True

    def __call__(self, logits: Float[Array, "b v"], keys: Keys) -> Int[Array, "b"]:
        """A token for each row, by its own key."""
        likeliest = jnp.argmax(logits, axis=-1)
        scale = jnp.where(self.values > 0, self.values, 1.0)[:, None]
        drawn = jax.vmap(jax.random.categorical)(keys, logits / scale)
        return jnp.where(self.values > 0, drawn, likeliest).astype(jnp.int32)


class _Loop(NamedTuple):
    step: Int[Array, ""]
    cache: KVCache
    last: Int[Array, "b"]
    over: Bool[Array, "b"]
    tokens: Int[Array, "b n"]


def generate(
    model: DecoderLM,
    params: Params,
    prompt: Int[Array, "b p"],
    steps: int,
    *,
    start: Int[Array, "b"] | None = None,
    keys: Keys | None = None,
    choice: Choice | Temperatures | None = None,
    end: int = -1,
) -> Int[Array, "b n"]:
    """The ``steps`` tokens that follow each prompt; after a text's ``end`` only ``end``.

    Prompts of different lengths are padded on the left: ``start`` is each one's first column. A row depends
    on its own prompt and key alone, whatever the batch; draws need ``keys``. Jit it with ``steps``,
    ``choice`` and ``end`` static. Raises ValueError where prompt and text exceed the model's positions.
    """
    choice = (choice or Choice()).check()
    require(steps >= 1, "steps", steps, "an integer >= 1")
    require(prompt.shape[1] >= 1, "prompt.shape", prompt.shape, "one token or more")
    require(not choice.draws or keys is not None, "keys", None, "one for each prompt, to draw by")
    batch, length = prompt.shape
    keys = jax.random.split(jax.random.key(0), batch) if keys is None else keys
    dtype = model.dtype or jnp.float32
    cache = empty_cache(model.config, batch, length + steps, start, dtype)

    def follow(tokens: Array, cache: KVCache, step: Array) -> tuple[Array, KVCache]:
        found: Any = model.apply({"params": params}, tokens, cache, method="extend")
        logits, cache = found
        draws = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return choice(logits[:, -1], draws), cache

    def one(loop: _Loop) -> _Loop:
        found, cache = follow(loop.last[:, None], loop.cache, loop.step)
        return _append(loop, found, cache, end)

    first, cache = follow(prompt, cache, jnp.zeros((), jnp.int32))
    blank = jnp.full((batch, steps), end, jnp.int32)
    begun = _Loop(jnp.zeros((), jnp.int32), cache, first, jnp.zeros(batch, bool), blank)
    loop = _append(begun, first, cache, end)
    return jax.lax.while_loop(lambda s: (s.step < steps) & ~jnp.all(s.over), one, loop).tokens


def _append(loop: _Loop, found: Int[Array, "b"], cache: KVCache, end: int) -> _Loop:
    """One column more; texts that are over get ``end``."""
    found = jnp.where(loop.over, end, found)
    tokens = jax.lax.dynamic_update_slice_in_dim(loop.tokens, found[:, None], loop.step, axis=1)
    return _Loop(loop.step + 1, cache, found, loop.over | (found == end), tokens)
