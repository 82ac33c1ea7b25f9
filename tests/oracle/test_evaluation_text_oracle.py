"""Figures of models on text against models whose distributions are known, and against sums by hand."""

import itertools
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data import train_tokenizer
from diffax.data.tokenizer import Tokenizer
from diffax.evaluation import (
    Item,
    evaluate_choices,
    kl_divergence,
    log_likelihoods,
    nll,
    perplexity,
    read_items,
)
from diffax.evaluation.choices import encode_pair

STATES = 5


def chain(seed=0, size=STATES):
    """A matrix of transitions."""
    return np.random.default_rng(seed).dirichlet(np.ones(size), size)


def bigram(matrix):
    """A model that knows the last token only."""
    table = jnp.log(jnp.asarray(matrix, jnp.float32))
    return lambda tokens: table[tokens]


def walks(matrix, n, length, seed=1):
    draw, texts = np.random.default_rng(seed), []
    for _ in range(n):
        text = [int(draw.integers(len(matrix)))]
        while len(text) < length:
            text.append(int(draw.choice(len(matrix), p=matrix[text[-1]])))
        texts.append(text)
    return np.asarray(texts, np.int32)


def by_hand(matrix, texts):
    return [[-math.log(matrix[a][b]) for a, b in itertools.pairwise(text)] for text in texts]


@pytest.mark.parametrize("vocabulary", [7, 2048])
def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(vocabulary):
    chunks = np.random.default_rng(0).integers(0, vocabulary, (5, 20))
    found = perplexity(lambda tokens: jnp.full((*tokens.shape, vocabulary), 3.0), chunks, batch_size=2)
    assert found.value == pytest.approx(vocabulary, rel=1e-5)
    assert (found.tokens, found.context) == (5 * 19, 20)


def test_perplexity_is_the_sum_by_hand():
    matrix = chain()
    texts = [*walks(matrix, 3, 90).tolist(), *walks(matrix, 4, 17).tolist(), [2, 1]]
    nats = by_hand(matrix, texts)
    found = perplexity(bigram(matrix), texts, batch_size=3)
    assert found.value == pytest.approx(math.exp(np.mean(np.concatenate(nats))), rel=1e-6)
    assert found.low < found.value < found.high
    sums, tokens = nll(bigram(matrix), texts, batch_size=3)
    np.testing.assert_allclose(sums, [sum(row) for row in nats], rtol=1e-6)
    np.testing.assert_array_equal(tokens, [len(row) for row in nats])


def test_a_chain_is_predicted_to_its_entropy_rate():
    """Long texts drawn from a chain: nats a token are its rate, within four standard errors."""
    matrix = chain()
    values, vectors = np.linalg.eig(matrix.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    rate = -np.sum(stationary[:, None] * matrix * np.log(matrix))
    texts = walks(matrix, 40, 200)
    nats, tokens = nll(bigram(matrix), texts)
    error = np.std(nats / tokens) / math.sqrt(len(texts))
    assert abs(nats.sum() / tokens.sum() - rate) < 4 * error


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_and_padding_change_nothing(batch_size):
    matrix = chain()
    texts = [walks(matrix, 1, length, length)[0] for length in (2, 9, 64, 65, 66, 130)]
    nats, tokens = nll(bigram(matrix), texts, batch_size=batch_size)
    for text, own, count in zip(texts, nats, tokens):
        alone, length = nll(bigram(matrix), text[None])
        assert own == pytest.approx(alone[0], rel=1e-6)
        assert count == length[0] == len(text) - 1


def test_a_mask_says_what_counts():
    matrix = chain()
    texts = walks(matrix, 3, 12)
    mask = np.random.default_rng(2).random(texts.shape) < 0.5
    mask[:, 0] = True  # given, so never counted
    nats, tokens = nll(bigram(matrix), texts, mask=mask)
    each = np.asarray(by_hand(matrix, texts)) * mask[:, 1:]
    np.testing.assert_allclose(nats, each.sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(tokens, mask[:, 1:].sum(axis=1))


def test_divergence_is_that_of_the_distributions():
    p, q = chain(0), chain(1)
    texts = [*walks(p, 3, 40).tolist(), *walks(p, 2, 11).tolist()]
    rows = np.concatenate([np.asarray(text[:-1]) for text in texts])
    each = np.sum(p * np.log(p / q), axis=1)
    found = kl_divergence(bigram(p), bigram(q), texts, batch_size=2)
    assert found.nats == pytest.approx(each[rows].mean(), rel=1e-5)
    assert found.agreement == pytest.approx(np.mean((p.argmax(1) == q.argmax(1))[rows]))
    assert found.tokens == len(rows)
    assert found.low <= found.nats <= found.high
    same = kl_divergence(bigram(p), bigram(p), texts)
    assert (same.nats, same.agreement) == (0, 1)


def test_divergence_where_p_is_zero():
    """0 log 0 = 0; a closed form of two coins: log 2 from a sure one to a fair one."""
    sure, fair = np.array([[1.0, 0.0], [1.0, 0.0]]), np.full((2, 2), 0.5)
    found = kl_divergence(bigram(sure), bigram(fair), np.zeros((2, 6), int))
    assert found.nats == pytest.approx(math.log(2), rel=1e-6)


@pytest.fixture(scope="module")
def words():
    """A tokenizer, a chain over its tokens, and that chain as a model."""
    tokenizer = train_tokenizer(["the cat sat on the mat, the dog ran to the cat " * 3], 280)
    matrix = chain(4, tokenizer.size)
    return tokenizer, matrix, bigram(matrix)


ROWS = {
    "arc": {
        "question": "Which?",
        "choices": {"text": ["the cat", "dög", "a mat ran"], "label": ["A", "B", "C"]},
        "answerKey": "C",
    },
    "piqa": {"goal": "sit", "sol1": "on the mat", "sol2": "on the dog", "label": 1},
    "winogrande": {
        "sentence": "the cat sat on the _ to the mat.",
        "option1": "dog",
        "option2": "mat",
        "answer": "1",
    },
    "hellaswag": {
        "ctx_a": "[header] the cat [title] sat",
        "ctx_b": "on the",
        "activity_label": "Cats",
        "endings": ["mat [step] ran", "dog", "cat ran", " to"],
        "label": "2",
    },
}
ITEMS = {
    "arc": Item(("Question: Which?\nAnswer:",) * 3, (" the cat", " dög", " a mat ran"), 2),
    "piqa": Item(("Question: sit\nAnswer:",) * 2, (" on the mat", " on the dog"), 1),
    "winogrande": Item(("the cat sat on the dog", "the cat sat on the mat"), (" to the mat.",) * 2, 0),
    "hellaswag": Item(
        ("Cats:  the cat. sat On the".replace("  ", " "),) * 4, (" mat ran", " dog", " cat ran", " to"), 2
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_items_are_the_harnesses(kind, tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(ROWS[kind]) + "\n")
    assert read_items(path, kind) == [ITEMS[kind]]


def test_choices_by_brute_force(words):
    tokenizer, matrix, logits_fn = words
    draw = np.random.default_rng(5)
    pool = ["the cat", "a dög", "mat", "ran to the dog, the mat", "ö", "sat on the cat"]
    items = []
    for _ in range(40):
        answers = tuple(" " + pool[i] for i in draw.permutation(len(pool))[:3])
        items.append(Item((str(draw.choice(pool)),) * 3, answers, int(draw.integers(3))))
    right = np.zeros(3)
    for item in items:
        scores = []
        for context, answer in zip(item.contexts, item.continuations):
            ids, start = tokenizer.encode(context + answer), len(tokenizer.encode(context))
            nats = sum(math.log(matrix[ids[i - 1]][ids[i]]) for i in range(start, len(ids)))
            text = answer[1:]
            scores.append((nats, nats / len(text), nats / len(text.encode())))
        right += np.argmax(scores, axis=0) == item.answer
    found = evaluate_choices(logits_fn, tokenizer, items, positions=64, batch_size=7)
    np.testing.assert_allclose([one.mean for one in found[:3]], right / 40)
    assert found.n == 40
    assert found.accuracy.low < found.accuracy.mean < found.accuracy.high


def test_long_contexts_lose_their_beginning(words):
    """The model sees its positions and no more; the last token is only predicted."""
    tokenizer, matrix, logits_fn = words
    widths = []

    def watched(tokens):
        widths.append(tokens.shape[1])
        return logits_fn(tokens)

    context, after = "the cat sat " * 30 + "on", " the mat"
    ids = tokenizer.encode(context + after)
    start = len(tokenizer.encode(context))
    nats = sum(math.log(matrix[ids[i - 1]][ids[i]]) for i in range(start, len(ids)))
    (found,) = log_likelihoods(watched, tokenizer, [(context, after)], positions=10)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert widths == [10]


class AcrossSpaces(Tokenizer):
    """Texts of letters, of which "s " is one token too: tokens may hold a context's end and what follows."""

    def __init__(self):
        self.begin, self.end = 0, None

    def encode(self, text, begin=True):
        return [0] * begin + [*map(ord, text.replace("s ", "S"))]


def test_a_token_that_holds_both_belongs_to_what_follows():
    before, after = encode_pair(AcrossSpaces(), "was", " sad")
    assert (before, after) == ([0, ord("w"), ord("a")], list(map(ord, "Ssad")))
    assert encode_pair(AcrossSpaces(), "wa", " sad") == ([0, *map(ord, "wa")], list(map(ord, " sad")))
    assert encode_pair(AcrossSpaces(), "was", " a")[1] == list(map(ord, "Sa"))


def test_spaces_go_to_what_follows(words):
    tokenizer = words[0]
    assert encode_pair(tokenizer, "the cat ", "sat") == encode_pair(tokenizer, "the cat", " sat")
    context, after = encode_pair(tokenizer, "", "the")
    assert (context, after) == ([tokenizer.begin], tokenizer.encode("the", begin=False))


def test_greedy_text_is_known(words):
    tokenizer, matrix, logits_fn = words
    (start,) = tokenizer.encode("t", begin=False)
    found = [
        log_likelihoods(logits_fn, tokenizer, [("t", tokenizer.raw.id_to_token(i))], positions=9)[0].greedy
        for i in range(20, 60)
        if len(encode_pair(tokenizer, "t", tokenizer.raw.id_to_token(i))[1]) == 1
    ]
    best = int(np.argmax(matrix[start]))
    assert sum(found) == (20 <= best < 60)
