"""Language models on text: perplexity, and how far one model's predictions are from another's.

    logits_fn = decoder_logits(DecoderLM(config), params)
    perplexity(logits_fn, token_chunks(ids, 2048)).value      # exp(mean of -log p)
    kl_divergence(logits_fn, logits_of_compressed, chunks)    # mean of KL(p || q)

``logits_fn(tokens: Int["b t"]) -> Float["b t v"]`` gives the logits of the token after each, which must not
depend on later ones: texts of different lengths are padded on the right. It is called as it is, so jit it.
Texts are rows of one array, or lists of tokens of different lengths; the first token of each is given, not
predicted. Logarithms are taken in float32, sums over tokens in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from diffax.checks import require
from diffax.evaluation.intervals import bootstrap_statistic
from diffax.types import Params

LogitsFn = Callable[[Array], Array]  # tokens (b, t) -> logits (b, t, v)
Texts = Sequence[Sequence[int]] | Sequence[Shaped[np.ndarray, "_"]] | Shaped[np.ndarray | Array, "_ _"]
Masks = Sequence[Sequence[bool]] | Sequence[Shaped[np.ndarray, "_"]] | Shaped[np.ndarray | Array, "_ _"]
_STEP = 64  # lengths of padded batches are multiples of it: few programs are compiled


class Sums(NamedTuple):
    """Of each text: sums of figures over the tokens that count, and how many these are."""

    sums: Float[np.ndarray, "n k"]
    tokens: Int[np.ndarray, "n"]


class Perplexity(NamedTuple):
    """``value = exp(nats)``; nats a token, over ``tokens`` predicted ones, of texts of up to ``context``;
    ``low`` and ``high`` bound the 95 % bootstrap interval of the value, over texts."""

    value: float
    nats: float
    tokens: int
    context: int
    low: float
    high: float


class Divergence(NamedTuple):
    """Mean KL(p || q) in nats over ``tokens`` predictions, with its 95 % bootstrap interval over texts;
    ``agreement``: the share of them at which both find the same token likeliest."""

    nats: float
    agreement: float
    tokens: int
    low: float
    high: float


def decoder_logits(model: Any, params: Params) -> LogitsFn:
    """A flax model ``model.apply({"params": params}, tokens) -> logits`` as a compiled ``logits_fn``."""
    apply = jax.jit(model.apply)
    return lambda tokens: apply({"params": params}, tokens)


@jax.jit
def token_nats(logits: Float[Array, "b t v"], targets: Int[Array, "b t"]) -> Float[Array, "b t"]:
    """``-log softmax(logits)[target]``."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


@jax.jit
def token_divergence(p: Float[Array, "b t v"], q: Float[Array, "b t v"]) -> Float[Array, "b t"]:
    """``sum_v p_v (log p_v - log q_v)`` of the distributions that logits stand for; 0 log 0 = 0."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (p, q))
    shares = jnp.exp(log_p)
    return jnp.sum(jnp.where(shares > 0, shares * (log_p - log_q), 0), axis=-1)


def nll(
    logits_fn: LogitsFn, texts: Texts, *, batch_size: int = 8, mask: Masks | None = None
) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Of each text the sum of -log p over its predicted tokens, in nats, and how many these are.

    ``mask``, of the texts' shapes, is true for tokens that count (never the first); all do by default. Raises
    ValueError for texts of fewer than two tokens, or a mask of other shapes.
    """

    def figures(inputs: Array, targets: Array) -> tuple[Array, ...]:
        return (token_nats(logits_fn(inputs), targets),)

    found = token_sums(figures, texts, batch_size=batch_size, mask=mask)
    return found.sums[:, 0], found.tokens


def perplexity(
    logits_fn: LogitsFn, texts: Texts, *, batch_size: int = 8, mask: Masks | None = None
) -> Perplexity:
    """``exp(mean of -log p)`` over all predicted tokens of all texts. Raises ValueError as :func:`nll`."""
    nats, tokens = nll(logits_fn, texts, batch_size=batch_size, mask=mask)
    mean = bootstrap_statistic(lambda rows: nats[rows].sum() / _count(tokens[rows]), len(nats), seed=0)
    value, low, high = (float(np.exp(x)) for x in mean)
    return Perplexity(value, mean.mean, int(tokens.sum()), max(len(text) for text in texts), low, high)


def kl_divergence(
    logits_p: LogitsFn,
    logits_q: LogitsFn,
    texts: Texts,
    *,
    batch_size: int = 8,
    mask: Masks | None = None,
) -> Divergence:
    """Mean of ``KL(p || q)`` over the predictions that perplexity is measured on, p being the first model.

    Raises ValueError as :func:`nll`, and for models of different vocabularies.
    """

    def figures(inputs: Array, targets: Array) -> tuple[Array, ...]:
        p, q = logits_p(inputs), logits_q(inputs)
        require(p.shape == q.shape, "logits_q: shape", q.shape, f"{p.shape}, as logits_p")
        return token_divergence(p, q), jnp.argmax(p, axis=-1) == jnp.argmax(q, axis=-1)

    found = token_sums(figures, texts, batch_size=batch_size, mask=mask)
    sums, tokens = found
    mean = bootstrap_statistic(lambda rows: sums[rows, 0].sum() / _count(tokens[rows]), len(sums), seed=0)
    total = int(tokens.sum())
    return Divergence(mean.mean, float(sums[:, 1].sum() / total), total, mean.low, mean.high)


def _count(tokens: Int[np.ndarray, "n"]) -> int:
    require(bool(tokens.sum() > 0), "mask", "no token", "a token that counts")  # the bootstrap leaves it out
    return int(tokens.sum())


def token_sums(
    figures: Callable[[Array, Array], tuple[Array, ...]],
    texts: Texts,
    *,
    batch_size: int = 8,
    mask: Masks | None = None,
    longest: int | None = None,
) -> Sums:
    """``figures(inputs, targets)`` of tokens (b, t) and of those after each, summed over each text.

    Each figure is of shape (b, t). ``longest``: the most columns, by default as many as the longest text has
    tokens; its last one is a target only. Raises ValueError as :func:`nll`.
    """
    require(batch_size >= 1, "batch_size", batch_size, "an integer >= 1")
    rows = [np.asarray(text, np.int32) for text in texts]
    require(len(rows) >= 1, "texts", len(rows), "one or more")
    shortest = min(len(row) for row in rows)
    require(shortest >= 2, "texts", f"one of {shortest} tokens", "two tokens or more in each")
    counts = (
        [np.ones(len(row), bool) for row in rows] if mask is None else [np.asarray(m, bool) for m in mask]
    )
    same = [m.shape for m in counts] == [row.shape for row in rows]
    require(same, "mask", [m.shape for m in counts][:3], "the shapes of the texts")
    sums: dict[int, np.ndarray] = {}
    for batch, inputs, targets, counted in _batches(rows, counts, batch_size, longest):
        found = [np.asarray(x, np.float64) for x in figures(jnp.asarray(inputs), jnp.asarray(targets))]
        totals = np.stack([np.where(counted, x, 0).sum(axis=1) for x in found], axis=1)
        sums |= zip(batch, totals)  # rows that fill the last batch drop out
    tokens = np.asarray([m[1:].sum() for m in counts], np.int64)
    return Sums(np.stack([sums[row] for row in range(len(rows))]), tokens)


def _batches(
    rows: Sequence[np.ndarray], counts: Sequence[np.ndarray], size: int, longest: int | None
) -> Iterator[tuple[list[int], Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]]:
    """Numbers of texts, inputs, targets and which targets count; the longest texts first, padded with 0."""
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    most = len(rows[order[0]]) if longest is None else longest
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        width = min(most, -(-(len(rows[batch[0]]) - 1) // _STEP) * _STEP)
        inputs, counted = np.zeros((size, width), np.int32), np.zeros((size, width), bool)
        targets = np.zeros_like(inputs)
        for place, row in enumerate(batch):
            length = len(rows[row]) - 1
            inputs[place, :length] = rows[row][:-1]
            targets[place, :length] = rows[row][1:]
            counted[place, :length] = counts[row][1:]
        yield batch, inputs, targets, counted
