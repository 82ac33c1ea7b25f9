"""How unlike each other texts are: distinct runs of words, overlap, compressibility, the Vendi score.

Words are what lies between white space, after case folding. A collapsed set (a generator that repeats itself)
has few distinct runs, a self-BLEU near 1, a large compression ratio and a Vendi score near 1.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from diffax.checks import require

_ORDERS = 4  # of BLEU
_GAP = "\n"


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different runs of n words over all runs of n words, of all texts together; NaN without any.

    Li et al. 2016 (arXiv:1510.03055), section 5.2. Raises ``ValueError`` unless ``n >= 1``.
    """
    require(n >= 1, "n", n, "an integer >= 1")
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        runs = _runs(_words(text), n)
        total += len(runs)
        seen.update(runs)
    return len(seen) / total if total else float("nan")


def self_bleu(texts: Sequence[str], *, sample: int = 1000, seed: int = 0) -> float:
    """Mean BLEU-4 of each of at most ``sample`` texts, drawn by the seed, against all others of them.

    ``exp(mean_n log p_n)`` with the clipped precisions of runs of 1 to 4 words and the brevity penalty of the
    closest reference; 0 where some order has no match, so texts of fewer than four words count 0 unless all
    their runs match. Zhu et al. 2018 (arXiv:1802.01886); Papineni et al. 2002, BLEU. Time grows with the
    runs of all texts, not with pairs of texts. Raises ``ValueError`` for fewer than two texts.
    """
    require(len(texts) >= 2, "texts", len(texts), "two or more")
    require(sample >= 2, "sample", sample, "an integer >= 2")
    order = np.random.default_rng(seed).permutation(len(texts))[:sample]
    words = [_words(texts[i]) for i in order]
    most = [_two_most([Counter(_runs(one, n)) for one in words]) for n in range(1, _ORDERS + 1)]
    lengths = sorted(map(len, words))
    return float(np.mean([_bleu(number, one, most, lengths) for number, one in enumerate(words)]))


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of all texts, a line each, over those that DEFLATE (level 9) makes of them; larger for more of
    the same. Shaib et al. 2024 (arXiv:2403.00553). Raises ``ValueError`` where there is no text."""
    raw = _GAP.join(texts).encode("utf-8", "surrogatepass")
    require(len(raw) > 0, "texts", "nothing", "one character or more")
    return len(raw) / len(zlib.compress(raw, 9))


def coverage(counts: Sequence[int]) -> float:
    """The share of categories that have anything at all. Raises ``ValueError`` for no category."""
    require(len(counts) > 0, "counts", len(counts), "one or more")
    return float(np.mean(np.asarray(counts) > 0))


def evenness(counts: Sequence[int]) -> float:
    """Entropy of the shares of categories over its largest value, ``-sum p log p / log k``: 1 where all k are
    as large, 0 where one has everything; 1 for one category. Pielou 1966 (J. Theor. Biol. 13).

    Raises ``ValueError`` for counts below 0, or that are all 0.
    """
    values = np.asarray(counts, float)
    require(bool(len(values)) and bool((values >= 0).all()), "counts", list(counts)[:5], "numbers >= 0")
    require(bool(values.sum() > 0), "counts", "only zeros", "one above 0")
    shares = values[values > 0] / values.sum()
    return 1.0 if len(values) == 1 else float(-(shares * np.log(shares)).sum() / np.log(len(values)))


def hashed_words(
    texts: Sequence[str], *, dimension: int = 1024, orders: Sequence[int] = (1, 2)
) -> Float[np.ndarray, "n d"]:
    """Counts of runs of words, hashed to ``dimension`` places with signs, as vectors of length 1.

    A cosine of 1 is the same runs; 0, up to collisions, no common one. A text without words is the first
    unit vector. The same on every machine. Weinberger et al. 2009 (arXiv:0902.2206).
    """
    require(dimension >= 2, "dimension", dimension, "an integer >= 2")
    found = np.zeros((len(texts), dimension))
    for row, text in enumerate(texts):
        words = _words(text)
        for run in (run for n in orders for run in _runs(words, n)):
            code = zlib.crc32(" ".join(run).encode("utf-8", "surrogatepass"))
            found[row, (code >> 1) % dimension] += 1 - 2 * (code & 1)
    norms = np.linalg.norm(found, axis=1)
    found[norms == 0, 0] = 1.0
    return found / np.where(norms == 0, 1.0, norms)[:, None]


def vendi_score(batches: Iterable[Float[np.ndarray, "_ d"]]) -> float:
    """``exp(-sum_i l_i log l_i)`` with the eigenvalues l of K / n, ``K = X X^T`` of vectors of length 1: how
    many different vectors there are, in effect, between 1 and n.

    X comes in batches of rows; the eigenvalues are those of ``X^T X / n``, which is as large as a vector and
    not as the set (Friedman & Dieng 2022, arXiv:2210.02410, section 3.4). Raises ``ValueError`` for no row,
    or rows that have not length 1.
    """
    total, n = np.zeros((0, 0)), 0
    for rows in batches:
        norms = np.linalg.norm(rows, axis=1)
        require(bool(np.allclose(norms, 1, atol=1e-4)), "batches: lengths", norms[:3].tolist(), "rows of 1")
        total = rows.T @ rows + (total if n else 0)
        n += len(rows)
    require(n > 0, "batches: rows", n, "one or more")
    values = np.linalg.eigvalsh(total / n)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def _words(text: str) -> list[str]:
    return text.casefold().split()


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _two_most(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Of each run its largest count in a text, that text, and the largest in the others."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for number, own in enumerate(counts):
        for run, count in own.items():
            first, owner, second = found.get(run, (0, -1, 0))
            found[run] = (count, number, first) if count > first else (first, owner, max(second, count))
    return found


def _bleu(
    number: int,
    words: Sequence[str],
    most: Sequence[dict[tuple[str, ...], tuple[int, int, int]]],
    lengths: Sequence[int],
) -> float:
    logs = []
    for n in range(1, _ORDERS + 1):
        own = Counter(_runs(words, n))
        if not own:
            continue  # a text that is too short for this order
        matched = 0
        for run, count in own.items():
            first, owner, second = most[n - 1][run]
            matched += min(count, second if owner == number else first)
        if not matched:
            return 0.0
        logs.append(np.log(matched / sum(own.values())))
    if not logs:
        return 0.0
    return float(np.exp(np.mean(logs)) * _brevity(len(words), lengths))


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """By the other text whose length is closest, the shorter of two."""
    others = list(lengths)
    others.remove(length)
    closest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length > closest else float(np.exp(1 - closest / max(1, length)))
