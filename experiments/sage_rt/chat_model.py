"""A decoder that answers conversations, many at a time, in programs that are compiled for a few shapes.

Prompts are padded on the left to one of a few lengths, batches and numbers of tokens likewise, so that there
are few programs, and none is compiled twice. Every answer is drawn by its own key: it does not depend on what
else is in the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.data.tokenizer import Tokenizer, load_tokenizer
from diffax.evaluation.choices import score_tokens
from diffax.evaluation.text import LogitsFn, decoder_logits
from diffax.io.decoder_files import DecoderFiles
from diffax.io.digest import digest
from diffax.models import TENSOR_RULES
from diffax.models.decoder_lm import DecoderConfig, DecoderLM
from diffax.models.generation import Temperatures, generate
from diffax.training.sharding import batch_devices, batch_sharding, tree_shardings
from diffax.types import Keys, Params
from experiments.sage_rt.backends.base import Message
from experiments.sage_rt.grammar import Grammars, HeldWriter

BATCHES = (1, 4, 16, 64)
_SHORTEST = 16  # of prompts and of answers, in tokens; the next are two, four, ... times that


class Prompt(NamedTuple):
    """Tokens, how many to answer with at most, at what temperature, the seed of the draws, and the JSON
    schema that the answer follows, or None."""

    tokens: list[int]
    steps: int
    temperature: float = 0.0
    seed: int = 0
    schema: Mapping[str, Any] | None = None


class Shape(NamedTuple):
    """What a program is compiled for: prompts and answers of so many tokens."""

    length: int
    steps: int


class ChatModel:
    """``params`` of a decoder with its tokenizer; on a ``mesh`` rows are split over its data axes and
    matrices by the rules of tensor parallelism. Raises ValueError for a template that cannot be read."""

    def __init__(
        self, config: DecoderConfig, params: Params, tokenizer: Tokenizer, mesh: Mesh | None = None
    ) -> None:
        self.config, self.tokenizer, self._mesh = config, tokenizer, mesh
        self.model = DecoderLM(config)
        where = tree_shardings(params, mesh, TENSOR_RULES) if mesh else None
        self.params = jax.device_put(params, where)
        self._template = chat_template(tokenizer.settings)
        self._programs = jax.jit(partial(_write, self.model, tokenizer.end), static_argnames="steps")

    @classmethod
    def read(cls, folder: str | Path, mesh: Mesh | None = None) -> "ChatModel":
        """Of a checkpoint with its tokenizer, in the layout of Hugging Face, compressed or not."""
        files = DecoderFiles(folder)
        return cls(files.config, files.params(), load_tokenizer(files.folder), mesh)

    @cached_property
    def name(self) -> str:
        """Of the weights and the tokenizer: what answers depend on."""
        text = self.tokenizer.raw.to_str()
        return digest({"params": self.params, "text": np.frombuffer(text.encode(), np.uint8)})[:16]

    @cached_property
    def _held(self) -> HeldWriter:
        return HeldWriter(self.model, self.params, Grammars(self.tokenizer, self.config.vocabulary))

    @cached_property
    def _logits(self) -> LogitsFn:
        return decoder_logits(self.model, self.params)

    @property
    def compiled(self) -> int:
        """How many programs there are by now."""
        return self._programs._cache_size()

    def tokens_of(self, messages: Sequence[Message]) -> list[int]:
        """A conversation as tokens, by the tokenizer's own template, or its texts with lines between them."""
        turns = [message._asdict() for message in messages]
        return self.tokenizer.encode(self._template(turns)) or [0]

    def shape(self, prompt: Prompt) -> Shape:
        """The least that holds a prompt and its answer, which ends where the model's positions do."""
        most = self.config.positions
        room = most - len(prompt.tokens)
        require(room > 0, "prompt: tokens", len(prompt.tokens), f"fewer than the model's {most} positions")
        steps = _next(min(prompt.steps, room), room)
        return Shape(_next(len(prompt.tokens), most - steps), steps)

    def write(self, prompts: Sequence[Prompt], shape: Shape) -> list[list[int]]:
        """What follows each prompt, all of which fit the shape: tokens up to the end, the end with them.

        Either all prompts have a schema, or none has."""
        rows = [*prompts, *[prompts[0]] * (self.batch(len(prompts)) - len(prompts))]
        tokens, start = np.zeros((len(rows), shape.length), np.int32), np.zeros(len(rows), np.int32)
        for row, prompt in enumerate(rows):
            start[row] = shape.length - len(prompt.tokens)
            tokens[row, start[row] :] = prompt.tokens
        temperatures = np.asarray([prompt.temperature for prompt in rows], np.float32)
        seeds = np.asarray([prompt.seed % 2**32 for prompt in rows], np.uint32)
        schemas = [prompt.schema for prompt in rows if prompt.schema is not None]
        if schemas:
            keys = _keys(jnp.asarray(seeds))
            found = self._held(tokens, start, shape.steps, temperatures, keys, schemas)
            return [row[: prompt.steps] for row, prompt in zip(found, prompts, strict=False)]
        inputs = jax.device_put((tokens, start, temperatures, seeds), self._rows())
        found = np.asarray(self._programs(self.params, *inputs, steps=shape.steps))
        return [self._cut(row, prompt.steps) for row, prompt in zip(found.tolist(), prompts, strict=False)]

    def batch(self, count: int) -> int:
        """The least size of a batch that holds so many."""
        parts = batch_devices(self._mesh) if self._mesh else 1
        fitting = next((size for size in BATCHES if size >= count), count)
        return -(-fitting // parts) * parts

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an answer."""
        return self.tokenizer.decode(tokens).strip()

    def log_probabilities(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[float]:
        """Of each answer after its conversation, in nats, without the end."""
        encoded = [
            (self.tokens_of(messages), self.tokenizer.encode(f" {said}", begin=False))
            for messages, said in pairs
        ]
        found = score_tokens(self._logits, encoded, positions=self.config.positions, batch_size=64)
        return [each.nats for each in found]

    def _rows(self) -> Any:
        return batch_sharding(self._mesh) if self._mesh else None

    def _cut(self, row: list[int], steps: int) -> list[int]:
        end = self.tokenizer.end
        return row[: row.index(end) + 1][:steps] if end in row else row[:steps]


def _write(
    model: DecoderLM,
    end: int | None,
    params: Params,
    tokens: jax.Array,
    start: jax.Array,
    temperatures: jax.Array,
    seeds: jax.Array,
    *,
    steps: int,
) -> jax.Array:
    keys = _keys(seeds)
    choice, last = Temperatures(temperatures), -1 if end is None else end
    return generate(model, params, tokens, steps, start=start, keys=keys, choice=choice, end=last)


def _keys(seeds: jax.Array) -> Keys:
    """A key for each row."""
    return jax.vmap(jax.random.key)(seeds)


def _next(count: int, most: int) -> int:
    """The least of 16, 32, 64, ... that holds so many, up to ``most``."""
    size = _SHORTEST
    while size < count:
        size *= 2
    return max(min(size, most), count)


def chat_template(settings: Mapping[str, Any]) -> Callable[[list[dict[str, str]]], str]:
    """Of tokenizer_config.json; conversations without one are their texts, a line each."""
    text = settings.get("chat_template")
    if not isinstance(text, str):
        return lambda turns: "\n".join(turn["content"] for turn in turns)
    sandbox = optional_import("jinja2.sandbox", "safety")
    made = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made.globals["raise_exception"] = _refuse
    try:
        template = made.from_string(text)
    except optional_import("jinja2", "safety").TemplateError as error:
        raise ValueError(f"chat_template: got {error}, allowed: a template of jinja2") from error
    words = {name: _word(settings.get(name)) for name in ("bos_token", "eos_token")}
    return lambda turns: template.render(messages=turns, add_generation_prompt=True, **words)


def _word(token: Any) -> str:
    """Older files hold an object."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _refuse(message: str) -> None:
    raise ValueError(f"messages: the model's template says {message!r}")
