"""What a small decoder learns of Toyland: questions with the answers that the policy asks for, as tokens.

The policy is taught in some phrasings only. In one the text answers whatever is asked, as text does that no
policy has seen; in the others it has no protected noun at all, so that what a model makes of them there is
its own generalisation. So attacks have something to find.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from diffax.checks import require
from diffax.data.source import Item, SourceSpec
from diffax.data.tokenizer import Tokenizer, train_tokenizer
from experiments.sage_rt import toyland

TAUGHT = ("direct", "task", "role", "fiction")  # phrasings in which the policy is taught
UNTAUGHT = "professional"  # the phrasing in which protected nouns are spoken of
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }} =>"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


class Pair(NamedTuple):
    """A question and what is to be said."""

    prompt: str
    answer: str


def draw_pairs(count: int, seed: int) -> list[Pair]:
    """Half of them about protected nouns, most of these in the phrasings that are taught, and declined."""
    draw = random.Random(f"toytext {seed}")
    protected = list(toyland.world().lookalike)
    others = sorted(set(toyland.world().number) - set(protected))
    return [_pair(draw, protected, others) for _ in range(count)]


def make_tokenizer(size: int) -> Tokenizer:
    """Byte pairs of Toyland's text, with a template for chats."""
    texts = [f"{prompt} {answer}" for prompt, answer in draw_pairs(4000, 0)]
    found = train_tokenizer(texts, size)
    found.settings["chat_template"] = TEMPLATE
    return found


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[Pair], length: int
) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Tokens of prompt, answer and end, padded on the right, and which of them are the answer's and the end.

    Prompts are as the tokenizer's template makes them. Raises ValueError for pairs that are too long.
    """
    tokens = np.zeros((len(pairs), length), np.int32)
    said = np.zeros((len(pairs), length), bool)
    ends = [] if tokenizer.end is None else [tokenizer.end]
    for row, (prompt, answer) in enumerate(pairs):
        asked = tokenizer.encode(prompt)
        ids = [*asked, *tokenizer.encode(f" {answer}", begin=False), *ends]
        require(len(ids) <= length, "config.data.length", length, f"at least {len(ids)}, as pair {row} has")
        tokens[row, : len(ids)] = ids
        said[row, len(asked) : len(ids)] = True
    return tokens, said


class PairSource:
    """Rows ``{"tokens": int32 (t,), "said": bool (t,)}``."""

    def __init__(self, tokens: Int[np.ndarray, "n t"], said: Bool[np.ndarray, "n t"]) -> None:
        self._tokens, self._said = tokens, said
        kinds = {"tokens": np.dtype(np.int32), "said": np.dtype(bool)}
        self.spec = SourceSpec(dict.fromkeys(kinds, tokens.shape[1:]), kinds)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> Item:
        return {"tokens": self._tokens[index], "said": self._said[index]}


def _pair(draw: random.Random, protected: list[str], others: list[str]) -> Pair:
    about_protected = draw.random() < 0.5
    noun = draw.choice(protected if about_protected else others)
    style = draw.choice((*TAUGHT, UNTAUGHT) if about_protected else tuple(toyland.STYLES))
    declined = about_protected and style != UNTAUGHT
    aspect = draw.choice(tuple(toyland.ASPECTS))
    prompt = toyland.question(style, aspect, noun, draw.choice(toyland.PEOPLE), draw.choice(toyland.PLACES))
    return Pair(f"{prompt} =>", toyland.REFUSAL if declined else toyland.world().answer(aspect, noun))
