"""What compression costs: perplexity of both models and how far one is from the other, layer by layer.

The written checkpoint is read again and measured: what is said of it holds of the files.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from diffax.evaluation.text import token_divergence, token_nats
from experiments.modegpt.runner import Runner, Streams


class Scores(NamedTuple):
    """On the same ``tokens`` predictions: perplexities ``before`` and ``after``, mean KL(before || after) in
    nats, the share of predictions whose likeliest token is the same."""

    before: float
    after: float
    kl: float
    agreement: float
    tokens: int


def compare(dense: Runner, small: Runner, tokens: Int[np.ndarray, "n t"]) -> Scores:
    """Of two checkpoints, on chunks whose first token is given."""
    ends, streams = zip(*((runner.files.ends(), final_streams(runner, tokens)) for runner in (dense, small)))
    both = zip(dense.logits(ends[0], streams[0]), small.logits(ends[1], streams[1]), strict=True)
    sums = np.zeros(4)
    for rows, (p, q) in zip(dense.rows(len(tokens)), both, strict=True):
        targets = jnp.asarray(tokens[rows, 1:])
        p, q = p[:, :-1], q[:, :-1]
        same = jnp.argmax(p, axis=-1) == jnp.argmax(q, axis=-1)
        parts = (token_nats(p, targets), token_nats(q, targets), token_divergence(p, q), same)
        sums += [float(np.asarray(part, np.float64).sum()) for part in parts]
    count = tokens[:, 1:].size
    before, after, kl, agreement = sums / count
    return Scores(float(np.exp(before)), float(np.exp(after)), float(kl), float(agreement), count)


def final_streams(runner: Runner, tokens: Int[np.ndarray, "n t"]) -> Streams:
    """Residual streams after the last layer."""
    streams = runner.new_streams(tokens, runner.config.ends[0])
    runner.embed(runner.files.ends(), tokens, streams)
    for number, layer in enumerate(runner.config.layers):
        out = runner.new_streams(tokens, layer.stream[2]) if layer.stream else streams
        runner.layer(number, runner.files.layer(number), streams, out)
        streams = out
    return streams
