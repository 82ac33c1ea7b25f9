"""Diversity: by hand, by eigenvalues of the whole kernel, by brute force over pairs."""

import math
import random

import numpy as np
import pytest

from diffax.evaluation.diversity import (
    compression_ratio,
    coverage,
    distinct_n,
    evenness,
    hashed_words,
    self_bleu,
    vendi_score,
)


def some_texts(count, words, length=12, seed=0):
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(words)}" for _ in range(length)) for _ in range(count)]


def test_distinct_runs_by_hand():
    texts = ["a b a b", "A b c"]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # ab, ba, bc of ab ba ab ab bc
    assert distinct_n(texts, 3) == 3 / 3
    assert math.isnan(distinct_n(["a"], 2))


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_groups_of_equal_vectors_count_as_one_each(groups):
    rows = np.repeat(np.eye(10)[:groups], 7, axis=0)
    assert vendi_score([rows]) == pytest.approx(groups, abs=1e-6)


def test_the_dual_form_is_that_of_the_kernel_and_may_come_in_batches():
    rows = np.random.default_rng(0).normal(size=(40, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(rows @ rows.T / 40)
    values = values[values > 1e-12]
    expected = math.exp(-(values * np.log(values)).sum())
    assert vendi_score([rows]) == pytest.approx(expected, rel=1e-9)
    assert vendi_score(iter([rows[:7], rows[7:31], rows[31:]])) == pytest.approx(expected, rel=1e-9)


def test_self_bleu_of_the_same_and_of_strangers():
    assert self_bleu(["a b c d e"] * 5) == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h", "i j k l"]) == 0


def test_self_bleu_by_hand():
    # of 5 words 4 match; of runs 3 of 4, 2 of 3, 1 of 2: (4/5 3/4 2/3 1/2)^(1/4), either way
    assert self_bleu(["a b c d x", "a b c d y"]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_shorter_texts_are_charged():
    found = self_bleu(["a b c d", "a b c d e f g h"])
    # the long one: 4 of 8, 3 of 7, 2 of 6, 1 of 5; the short one matches whole, times exp(1 - 8/4)
    long = (4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25
    assert found == pytest.approx((long + math.exp(-1)) / 2)


def test_self_bleu_against_every_pair():
    texts = some_texts(12, 6, 9)
    words = [text.split() for text in texts]

    def precision(own, n):
        runs = [tuple(own[i : i + n]) for i in range(len(own) - n + 1)]
        matched = 0
        for run in set(runs):
            others = [w for w in words if w is not own]
            matched += min(
                runs.count(run),
                max(sum(tuple(w[i : i + n]) == run for i in range(len(w) - n + 1)) for w in others),
            )
        return matched / len(runs)

    scores = []
    for own in words:
        shares = [precision(own, n) for n in range(1, 5)]
        scores.append(0 if 0 in shares else math.prod(shares) ** 0.25)
    assert self_bleu(texts) == pytest.approx(np.mean(scores))


def test_a_collapsed_set_is_noticed_by_everything():
    diverse, collapsed = some_texts(200, 3000), some_texts(5, 3000) * 40
    assert distinct_n(collapsed, 2) < 0.1 < distinct_n(diverse, 2)
    assert self_bleu(collapsed) == pytest.approx(1)
    assert self_bleu(diverse) < 0.1
    assert compression_ratio(collapsed) > 5 * compression_ratio(diverse)
    assert vendi_score([hashed_words(collapsed)]) == pytest.approx(5, abs=0.2)
    assert vendi_score([hashed_words(diverse)]) > 100


def test_hashed_words_are_of_length_one_and_alike_for_the_same_runs():
    rows = hashed_words(["The cat sat", "the  CAT sat", "quite another thing", ""])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    assert rows[0] @ rows[1] == pytest.approx(1)
    assert abs(rows[0] @ rows[2]) < 0.3


def test_categories():
    assert coverage([3, 0, 1, 0]) == 0.5
    assert evenness([5, 5, 5]) == pytest.approx(1)
    assert evenness([7, 0, 0]) == 0
    assert evenness([1, 1, 0, 0]) == pytest.approx(0.5)
    assert evenness([4]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_n(["a"], 0), "n: got 0"),
        (lambda: self_bleu(["a"]), "texts: got 1"),
        (lambda: compression_ratio([]), "texts: got"),
        (lambda: evenness([0, 0]), "only zeros"),
        (lambda: evenness([-1, 2]), "numbers >= 0"),
        (lambda: vendi_score([]), "rows: got 0"),
        (lambda: vendi_score([np.ones((2, 2))]), "rows of 1"),
        (lambda: hashed_words(["a"], dimension=1), "dimension: got 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
