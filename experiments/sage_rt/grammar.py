"""Answers that follow a JSON schema whatever the weights: before each token what cannot follow is ruled out.

What may follow is told by the package ``llguidance`` (``pip install "diffax[safety]"``), on the host: a round
trip for each token, which answers without a schema do not have."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffax.data.optional import optional_import
from diffax.data.tokenizer import Tokenizer
from diffax.models.decoder_lm import DecoderLM, KVCache, empty_cache
from diffax.models.generation import Temperatures
from diffax.types import Keys, Params


class Grammars:
    """Matchers of schemas for one tokenizer. Raises ImportError without the package."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._package = optional_import("llguidance", "safety")
        self._bits = optional_import("llguidance.numpy", "safety")
        self.vocabulary = vocabulary
        raw = tokenizer.raw.to_str()
        self._tokenizer = self._package.LLTokenizer(raw, n_vocab=vocabulary, eos_token=tokenizer.end)

    def start(self, schema: Mapping[str, Any]) -> Any:
        """A matcher at the beginning of an answer. Raises ValueError for a schema that is none."""
        known = self._package.LLMatcher
        # without white space, of which weights that know no JSON would write without end
        grammar = known.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        found = known(self._tokenizer, grammar)
        if found.is_error():
            raise ValueError(f"schema: got {found.get_error()!s}, allowed: a JSON schema")
        return found

    def allowed(self, matchers: Sequence[Any]) -> Bool[np.ndarray, "b v"]:
        """Of each matcher the tokens that may follow; all where the answer is over."""
        words = self._bits.allocate_token_bitmask(len(matchers), self.vocabulary)
        for row, matcher in enumerate(matchers):
            if not matcher.is_stopped():
                self._bits.fill_next_token_bitmask(matcher, words, row)
        bits = (words.view(np.uint32)[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
        return bits.reshape(len(matchers), -1)[:, : self.vocabulary].astype(bool)


class HeldWriter:
    """A decoder that writes by matchers; compiled once for each shape."""

    def __init__(self, model: DecoderLM, params: Params, grammars: Grammars) -> None:
        self._model, self._params, self.grammars = model, params, grammars
        self._extend = jax.jit(partial(_extend, model), donate_argnums=(2,))

    def __call__(
        self,
        tokens: Int[np.ndarray, "b p"],
        start: Int[np.ndarray, "b"],
        steps: int,
        temperatures: Float[np.ndarray, "b"],
        keys: Keys,
        schemas: Sequence[Mapping[str, Any]],
    ) -> list[list[int]]:
        """The tokens of each answer, up to the end of its schema or ``steps``; draws are by the row's key and
        the step, as those of :func:`diffax.models.generation.generate` are."""
        matchers = [self.grammars.start(schema) for schema in schemas]
        found: list[list[int]] = [[] for _ in schemas]
        cache = empty_cache(self._model.config, len(tokens), tokens.shape[1] + steps, jnp.asarray(start))
        following: Any = tokens
        for step in range(steps):
            logits, cache = self._extend(self._params, jnp.asarray(following, jnp.int32), cache)
            mask = jnp.asarray(self.grammars.allowed(matchers))
            chosen = np.asarray(_choose(logits, mask, jnp.asarray(temperatures), keys, step))
            for row, matcher in enumerate(matchers):
                if not matcher.is_stopped():
                    matcher.consume_token(int(chosen[row]))
                    found[row].append(int(chosen[row]))
            if all(matcher.is_stopped() for matcher in matchers):
                break
            following = chosen[:, None]
        return found


def _extend(
    model: DecoderLM, params: Params, tokens: Int[Array, "b t"], cache: KVCache
) -> tuple[Float[Array, "b v"], KVCache]:
    found: Any = model.apply({"params": params}, tokens, cache, method="extend")
    return found[0][:, -1], found[1]


@jax.jit
def _choose(
    logits: Float[Array, "b v"],
    mask: Bool[Array, "b v"],
    temperatures: Float[Array, "b"],
    keys: Keys,
    step: Int[Array, ""] | int,
) -> Int[Array, "b"]:
    draws = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    return Temperatures(temperatures)(jnp.where(mask, logits, -jnp.inf), draws)
