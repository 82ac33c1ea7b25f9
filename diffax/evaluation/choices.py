"""Questions with several answers, of which a language model should find the right one the likeliest.

    items = read_items("arc_easy.jsonl", "arc")
    evaluate_choices(logits_fn, tokenizer, items, positions=2048).accuracy

Contexts, continuations and scores are those of EleutherAI's evaluation harness (0.4.13) without examples in
the context; files are JSON lines with the fields of the original data sets.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffax.checks import require, require_one_of
from diffax.data.text import read_rows
from diffax.data.tokenizer import Tokenizer
from diffax.evaluation.intervals import Interval, wilson_interval
from diffax.evaluation.text import LogitsFn, token_nats, token_sums


class Item(NamedTuple):
    """A question: ``continuations[i]`` of ``contexts[i]`` for each answer i, and the right ``answer``.

    A continuation begins with the space that parts it from its context; scores by length leave that out.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    answer: int

    def check(self, where: str = "item") -> "Item":
        """Itself; ValueError unless there are two answers or more, of which ``answer`` is one."""
        count = len(self.continuations)
        require(count >= 2, f"{where}: continuations", count, "two or more")
        require(len(self.contexts) == count, f"{where}: contexts", len(self.contexts), f"{count}")
        require(0 <= self.answer < count, f"{where}: answer", self.answer, f"0 .. {count - 1}")
        filled = all(text.strip() for text in self.continuations)
        require(filled, f"{where}: continuations", self.continuations, "texts that are not blank")
        return self


class ChoiceScore(NamedTuple):
    """Shares of ``n`` questions answered rightly, with 95 % Wilson intervals, by the answer's log-likelihood
    (``accuracy``, the harness's acc), by that over its characters (``normalised``, acc_norm) and over its
    bytes (``by_bytes``, acc_bytes)."""

    accuracy: Interval
    normalised: Interval
    by_bytes: Interval
    n: int


class Likelihood(NamedTuple):
    """``log p(continuation | context)`` in nats, and whether each of its tokens is the likeliest."""

    nats: float
    greedy: bool


def arc_item(row: Mapping[str, Any]) -> Item:
    """Of ARC (Clark et al. 2018, arXiv:1803.05457): question, choices {text, label}, answerKey."""
    answers, labels = row["choices"]["text"], row["choices"]["label"]
    return _asked(row["question"], answers, labels.index(row["answerKey"]))


def piqa_item(row: Mapping[str, Any]) -> Item:
    """Of PIQA (Bisk et al. 2020, arXiv:1911.11641): goal, sol1, sol2, label."""
    return _asked(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


def winogrande_item(row: Mapping[str, Any]) -> Item:
    """Of WinoGrande (Sakaguchi et al. 2020, arXiv:1907.10641): sentence with a blank _, option1, option2,
    answer "1" or "2". The blank is filled in either way and what comes after it is scored."""
    before, after = row["sentence"].split("_", 1)
    contexts = (before + row["option1"], before + row["option2"])
    return Item(contexts, (" " + after.strip(),) * 2, int(row["answer"]) - 1)


def hellaswag_item(row: Mapping[str, Any]) -> Item:
    """Of HellaSwag (Zellers et al. 2019, arXiv:1905.07830): ctx_a and ctx_b, or ctx; activity_label, endings,
    label. Headings and notes in brackets are taken out."""
    context = row["ctx_a"] + " " + row["ctx_b"].capitalize() if "ctx_a" in row else row["ctx"]
    context = _without_brackets(f"{row['activity_label']}: {context}")
    endings = tuple(" " + _without_brackets(ending) for ending in row["endings"])
    return Item((context,) * len(endings), endings, int(row["label"]))


FORMATS: dict[str, Callable[[Mapping[str, Any]], Item]] = {
    "arc": arc_item,
    "piqa": piqa_item,
    "winogrande": winogrande_item,
    "hellaswag": hellaswag_item,
}


def read_items(path: str | Path, kind: str) -> list[Item]:
    """The questions of a ``.jsonl`` or ``.json`` file of the kind, one of ``FORMATS``.

    Raises ValueError naming file and row for fields that are missing or do not fit.
    """
    require_one_of("kind", kind, FORMATS)
    found = []
    for number, row in enumerate(read_rows(path)):
        where = f"{path}: row {number}"
        try:
            item = FORMATS[kind](row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where}: got {error!r}, allowed: the fields of {kind}") from error
        found.append(item.check(where))
    require(bool(found), str(path), "no row", "one question or more")
    return found


def evaluate_choices(
    logits_fn: LogitsFn,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    *,
    positions: int,
    batch_size: int = 8,
) -> ChoiceScore:
    """How often the right answer is the likeliest; of equal ones the first counts.

    ``positions``: the longest text of the model; longer contexts lose their beginning. Raises ValueError as
    :func:`log_likelihoods`, and for no item or an ill-formed one.
    """
    require(len(items) >= 1, "items", len(items), "one or more")
    items = [item.check(f"items[{number}]") for number, item in enumerate(items)]
    pairs = [pair for item in items for pair in zip(item.contexts, item.continuations, strict=True)]
    found = log_likelihoods(logits_fn, tokenizer, pairs, positions=positions, batch_size=batch_size)
    nats = np.asarray([one.nats for one in found])
    ends = np.cumsum([len(item.continuations) for item in items])[:-1]
    right = np.zeros(3, int)
    for item, own in zip(items, np.split(nats, ends), strict=True):
        texts = [text.removeprefix(" ") for text in item.continuations]
        characters = np.asarray([len(text) for text in texts])
        sizes = np.asarray([len(text.encode()) for text in texts])
        right += [int(np.argmax(score)) == item.answer for score in (own, own / characters, own / sizes)]
    plain, normalised, by_bytes = (wilson_interval(int(count), len(items)) for count in right)
    return ChoiceScore(plain, normalised, by_bytes, len(items))


def log_likelihoods(
    logits_fn: LogitsFn,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    positions: int,
    batch_size: int = 8,
) -> list[Likelihood]:
    """Of each (context, continuation), encoded together; an empty context is the text's beginning.

    Raises ValueError for a continuation without tokens, or of more than ``positions``.
    """
    encoded = [encode_pair(tokenizer, *pair) for pair in pairs]
    return score_tokens(logits_fn, encoded, positions=positions, batch_size=batch_size)


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of a context and of what follows. The context's last spaces go to the continuation, as in tokens
    that begin with a space; so do its last letters where a token holds them and the continuation's first.
    Raises ValueError for an empty context where texts have no beginning."""
    if not context.strip():
        continuation = context + continuation
        start = tokenizer.end if tokenizer.begin is None else tokenizer.begin
        require(start is not None, "context", context, "a text, as the tokenizer has no beginning or end")
        ids = tokenizer.encode(continuation, begin=False)
        return [int(start)], ids[1:] if ids[:1] == [start] else ids  # type: ignore[arg-type]
    kept = context.rstrip()
    together = tokenizer.encode(context + continuation)
    pairs = zip(tokenizer.encode(kept), together, strict=False)
    before = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return together[:before], together[before:]


def score_tokens(
    logits_fn: LogitsFn,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    positions: int,
    batch_size: int = 8,
) -> list[Likelihood]:
    """Of tokens after tokens; of contexts that are too long the last ``positions`` count, with what follows
    less its last token."""
    texts, masks = [], []
    for context, ids in pairs:
        longest = f"1 to {positions} tokens, after one token or more"
        require(0 < len(ids) <= positions and len(context) > 0, "continuation", len(ids), longest)
        texts.append([*context, *ids][-(positions + 1) :])
        masks.append([False] * (len(texts[-1]) - len(ids)) + [True] * len(ids))
    if not texts:
        return []

    def figures(inputs: Array, targets: Array) -> tuple[Array, ...]:
        logits = logits_fn(inputs)
        return token_nats(logits, targets), jnp.argmax(logits, axis=-1) != targets

    found = token_sums(figures, texts, batch_size=batch_size, mask=masks, longest=positions)
    return [Likelihood(-float(nats), bool(misses == 0)) for nats, misses in found.sums]


def _asked(question: str, answers: Sequence[str], right: int) -> Item:
    """In the words of ARC and PIQA."""
    context = f"Question: {question}\nAnswer:"
    return Item((context,) * len(answers), tuple(" " + answer for answer in answers), right)


def _without_brackets(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
