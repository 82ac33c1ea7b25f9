"""Losses of pairs: against enumerations of all sequences, and closed forms."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.losses.preference import dpo_loss, sequence_log_prob, simpo_loss


def numbers(*values):
    return jnp.asarray(values, jnp.float32)


def test_probabilities_of_all_sequences_sum_to_one():
    words, length = 3, 4
    tokens = jnp.asarray(list(itertools.product(range(words), repeat=length)), jnp.int32)
    row = jax.random.normal(jax.random.key(0), (length, words)) * 2
    logits = jnp.broadcast_to(row, (len(tokens), length, words))
    found, lengths = sequence_log_prob(logits, tokens, jnp.ones(tokens.shape, bool))
    np.testing.assert_allclose(np.exp(np.asarray(found)).sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(lengths, length)


def test_only_tokens_of_the_mask_count():
    logits = jnp.log(jnp.asarray([[[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]]]))
    mask = jnp.asarray([[False, True, True]])
    found, lengths = sequence_log_prob(logits, jnp.asarray([[0, 1, 0]], jnp.int32), mask)
    np.testing.assert_allclose(found, math.log(0.75 * 0.1), rtol=1e-6)
    assert float(lengths[0]) == 2


def test_a_token_outside_the_mask_may_be_impossible():
    logits = jnp.asarray([[[0.0, -jnp.inf], [0.0, 0.0]]])

    def loss(logits):
        return sequence_log_prob(logits, jnp.asarray([[0, 1]], jnp.int32), jnp.asarray([[False, True]]))[0][0]

    assert float(loss(logits)) == pytest.approx(-math.log(2))


def test_equal_answers_cost_what_a_coin_does():
    same = numbers(-3.0)
    assert float(dpo_loss(same, same, same, same, beta=0.1)[0]) == pytest.approx(math.log(2))
    assert float(simpo_loss(same, same, same, same, beta=2.0, gamma=0.0)[0]) == pytest.approx(math.log(2))


def test_dpo_by_hand():
    # odds of the preferred answer are 3 times, with beta 1, what they were: p = 3/4
    found = dpo_loss(numbers(math.log(0.6)), numbers(math.log(0.1)), numbers(math.log(0.4)),
                     numbers(math.log(0.2)), beta=1.0)  # fmt: skip
    assert float(found[0]) == pytest.approx(-math.log(3 / 4), rel=1e-6)


def test_simpo_by_hand():
    # log 2 a token better, less gamma = log 2: odds of 2^2 / 2
    found = simpo_loss(numbers(3 * math.log(0.5)), numbers(5 * math.log(0.25)), numbers(3.0), numbers(5.0),
                       beta=2.0, gamma=math.log(2))  # fmt: skip
    assert float(found[0]) == pytest.approx(-math.log(2 / 3), rel=1e-6)


def test_gradients_at_no_margin():
    zero = numbers(0.0)
    slope = jax.grad(lambda x: dpo_loss(x, zero, zero, zero, beta=0.3)[0])(zero)
    np.testing.assert_allclose(slope, -0.15, rtol=1e-6)
    slope = jax.grad(lambda x: simpo_loss(x, zero, numbers(4.0), zero + 1, beta=2.0, gamma=0.0)[0])(zero)
    np.testing.assert_allclose(slope, -2 / 4 / 2, rtol=1e-6)


def test_margins_may_be_huge():
    found = dpo_loss(numbers(1e4, -1e4), numbers(-1e4, 1e4), numbers(0, 0), numbers(0, 0), beta=1.0)
    np.testing.assert_allclose(found, [0, 2e4])


def test_bad_numbers_are_named():
    one = numbers(1.0)
    with pytest.raises(ValueError, match="beta: got 0"):
        dpo_loss(one, one, one, one, beta=0.0)
    with pytest.raises(ValueError, match="gamma: got -1"):
        simpo_loss(one, one, one, one, beta=1.0, gamma=-1.0)
