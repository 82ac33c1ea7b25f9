"""A decoder behind the interface of EleutherAI's evaluation harness, whose tasks then run on it:

    model = as_harness_model(DecoderLM(config), params, tokenizer)
    lm_eval.simple_evaluate(model, tasks=["arc_easy"])

Requests are objects whose ``args`` is a tuple, as the harness's ``Instance``; without the package (it is not
a dependency) the class works the same.
"""

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffax.checks import require
from diffax.data.tokenizer import Tokenizer
from diffax.evaluation.choices import log_likelihoods, score_tokens
from diffax.evaluation.text import decoder_logits
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import generate
from diffax.types import Params

_TOKENS = 256  # of a text, where a request does not say
_STEP = 64  # prompts' lengths are multiples of it: few programs are compiled


class HarnessModel:
    """Log-likelihoods and greedy text of a decoder. ``positions``: the longest text, else the model's."""

    def __init__(
        self,
        model: DecoderLM,
        params: Params,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 8,
        positions: int | None = None,
    ) -> None:
        super().__init__()  # the harness's own fields, where it is a base
        most = model.config.positions
        self.positions = most if positions is None else positions
        require(2 <= self.positions <= most, "positions", positions, f"an integer in [2, {most}]")
        self.model, self.params, self.encoding, self.batch_size = model, params, tokenizer, batch_size
        self._logits = decoder_logits(model, params)
        end = -1 if tokenizer.end is None else tokenizer.end
        self._generate = jax.jit(partial(generate, model, end=end), static_argnames="steps")

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation) the log-likelihood, and whether greedy text would be it."""
        pairs = [(str(context), str(continuation)) for context, continuation in (r.args for r in requests)]
        options: dict[str, Any] = {"positions": self.positions, "batch_size": self.batch_size}
        return [
            (one.nats, one.greedy) for one in log_likelihoods(self._logits, self.encoding, pairs, **options)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each request's (text,) the log-likelihood, in windows as long as the model allows, every token
        once; the last window reaches back to be full."""
        windows = [self._windows(str(request.args[0])) for request in requests]
        pairs = [pair for some in windows for pair in some]
        found = score_tokens(self._logits, pairs, positions=self.positions, batch_size=self.batch_size)
        ends = np.cumsum([len(some) for some in windows])[:-1]
        return [float(some.sum()) for some in np.split(np.asarray([one.nats for one in found]), ends)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Of each (context, options) the likeliest text, up to one of ``options["until"]``, which is left
        out, or to ``options["max_gen_toks"]`` tokens. Raises ValueError where a request wants draws."""
        return [self._text(str(context), options) for context, options in (r.args for r in requests)]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Contexts and what is predicted after them."""
        ids, most = self.encoding.encode(text), self.positions
        if self.encoding.begin is None:
            require(self.encoding.end is not None, "tokenizer.begin", None, "a token, or an end")
            ids = [self.encoding.end, *ids]  # type: ignore[list-item]
        stops = range(1, len(ids), most)  # of the first token that each window predicts
        found = []
        for first in stops:
            last = min(first + most, len(ids))
            start = max(0, last - most - 1)
            found.append((ids[start:first], ids[first:last]))
        return found

    def _text(self, context: str, options: Mapping[str, Any]) -> str:
        draws = bool(options.get("do_sample", False)) and options.get("temperature", 1.0) != 0
        require(not draws, "do_sample", options.get("do_sample"), "False, or temperature 0")
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        steps = min(int(options.get("max_gen_toks", _TOKENS)), self.positions - 1)
        require(steps >= 1, "max_gen_toks", steps, "an integer >= 1")
        prompt = self.encoding.encode(context)[-(self.positions - steps) :] or [self.encoding.end or 0]
        width = min(self.positions - steps, -(-len(prompt) // _STEP) * _STEP)
        padded = jnp.asarray([[0] * (width - len(prompt)) + prompt], jnp.int32)
        start = jnp.asarray([width - len(prompt)], jnp.int32)
        ids = np.asarray(self._generate(self.params, prompt=padded, start=start, steps=steps))[0].tolist()
        ids = [token for token in ids if token >= 0]
        before, whole = (self.encoding.decode(tokens) for tokens in (prompt, prompt + ids))
        said = whole[len(before) :]  # decoded with the prompt, it keeps its first space
        return said[: min((said.index(stop) for stop in until if stop and stop in said), default=len(said))]


def as_harness_model(model: DecoderLM, params: Params, tokenizer: Tokenizer, **options: Any) -> HarnessModel:
    """The same, as a subclass of ``lm_eval.api.model.LM`` where that is installed. Options: as the class."""
    try:
        base = importlib.import_module("lm_eval.api.model").LM
    except ImportError:
        return HarnessModel(model, params, tokenizer, **options)
    made: Any = type("HarnessDecoder", (HarnessModel, base), {})
    return made(model, params, tokenizer, **options)
