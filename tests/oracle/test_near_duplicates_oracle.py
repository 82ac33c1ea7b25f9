"""Near-duplicate texts: groups against all pairs by brute force, planted edits, unrelated texts."""

import itertools
import random

import numpy as np
import pytest

from diffax.data.near_duplicates import find_near_duplicates, jaccard, signatures, word_hashes


def made_up_words(count, draw):
    parts = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return ["".join(draw.choices(parts, k=draw.randint(2, 4))) for _ in range(count)]


def documents(count, seed=0, words=8000):
    """Unrelated texts of 25 to 60 words whose frequencies fall as Zipf's law says."""
    draw = random.Random(seed)
    known = made_up_words(words, draw)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, words + 1)))
    return [" ".join(draw.choices(known, cum_weights=weights, k=draw.randint(25, 60))) for _ in range(count)]


def edited(text, share, draw):
    words = text.split()
    for place in draw.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = f"new{draw.random()}"
    return " ".join(words)


def triples(text):
    words = text.casefold().split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def overlap(a, b):
    return len(a & b) / len(a | b)


def brute_force(texts, threshold):
    """The first of each text's group, by comparing all pairs."""
    sets, group = [triples(text) for text in texts], list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if overlap(sets[i], sets[j]) >= threshold:
            low, high = sorted((group[i], group[j]))
            group = [low if name == high else name for name in group]
    return group


@pytest.fixture(scope="module")
def planted():
    """Unrelated texts, and copies of some with a few words changed; each copy's original."""
    draw, texts = random.Random(1), documents(300)
    copies = [(i, edited(texts[i], share, draw)) for i in range(0, 240, 2) for share in (0.02, 0.1)]
    return texts + [text for _, text in copies], [i for i, _ in copies]


def test_groups_are_those_of_all_pairs(planted):
    texts, _ = planted
    expected = brute_force(texts, 0.7)
    assert find_near_duplicates(texts, threshold=0.7).tolist() == expected
    assert len(set(expected)) < len(texts) - 100


def test_planted_copies_are_found_and_strangers_are_not(planted):
    texts, originals = planted
    found = find_near_duplicates(texts, threshold=0.7)
    assert found[:300].tolist() == list(range(300))
    close = [
        found[300 + n] == i
        for n, i in enumerate(originals)
        if overlap(triples(texts[300 + n]), triples(texts[i])) >= 0.8
    ]
    assert len(close) > 100
    assert np.mean(close) >= 0.99


def test_the_order_of_texts_changes_names_only(planted):
    texts, _ = planted
    order = np.random.default_rng(0).permutation(len(texts))
    plain, mixed = find_near_duplicates(texts), find_near_duplicates([texts[i] for i in order])
    groups = {frozenset(np.flatnonzero(plain == name)) for name in set(plain.tolist())}
    assert groups == {frozenset(order[mixed == name].tolist()) for name in set(mixed.tolist())}


def test_the_seed_changes_nothing_that_is_clear(planted):
    texts, _ = planted
    np.testing.assert_array_equal(find_near_duplicates(texts, threshold=0.75, seed=1),
                                  find_near_duplicates(texts, threshold=0.75, seed=2))  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        "THE quick Brown fox jumps over it",
        "the  quick\tbrown\n fox jumps over it ",
        "ｔｈｅ quick brown fox jumps over it",
        "the quick brown \u00a0fox jumps over it",
    ],
)
def test_copies_up_to_case_space_and_form(other):
    assert find_near_duplicates(["the quick brown fox jumps over it", other]).tolist() == [0, 0]


def test_empty_and_short_texts():
    texts = ["", "  ", "one", "one two", "One", "", "one two three"]
    assert find_near_duplicates(texts).tolist() == [0, 0, 2, 3, 2, 0, 6]
    assert find_near_duplicates([]).tolist() == []


def test_groups_of_hundreds_of_copies():
    text = documents(1)[0]
    texts = [text + f" end{n % 3}" for n in range(400)]
    found = find_near_duplicates([*texts, *documents(50, seed=9)])
    assert set(found[:400].tolist()) == {0}
    assert found[400:].tolist() == list(range(400, 450))


def test_signatures_estimate_the_overlap():
    draw = random.Random(5)
    for text in documents(20, seed=3):
        other = edited(text, 0.08, draw)
        truth = overlap(triples(text), triples(other))
        rows = signatures([word_hashes(text), word_hashes(other)])
        spread = (truth * (1 - truth) / rows.shape[1]) ** 0.5
        assert abs(np.mean(rows[0] == rows[1]) - truth) < 4 * spread
        assert jaccard(word_hashes(text), [word_hashes(other)])[0] == pytest.approx(truth)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(ValueError, match="threshold"):
        find_near_duplicates(["a"], threshold=threshold)
