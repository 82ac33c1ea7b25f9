r"""Near-duplicate texts: MinHash finds the pairs worth a look, the exact overlap decides.

A text is the set S of its runs of three words, after NFKC, case folding and any white space as one space
(punctuation stays); a text of one or two words is one run, a text of none the empty set. Two texts are near
duplicates if

    J(S, T) = |S n T| / |S u T| >= threshold

which is 1 for equal sets, empty ones too. Runs are 64-bit hashes, which differ for the sets of a million
texts but with odds of 1e-4. The least value of a random permutation over S is that over T with probability
J; five of them form a band, and a pair that agrees in none of 25 bands is never compared: with probability
``(1 - J^5)^25``, 0.01 at J = 0.7 and 5e-5 at 0.8.

Sources: Broder 1997 (Compression and Complexity of Sequences), MinHash; Leskovec, Rajaraman, Ullman 2014
(Mining of Massive Datasets), section 3.4, banding. Hashes by ``xxhash`` (``pip install "diffax[safety]"``).
"""

import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt32, UInt64

from diffax.checks import require
from diffax.data.optional import optional_import

Hashes = UInt64[np.ndarray, "_"]  # distinct and ascending: the runs of one text

_RUN = 3  # words
_BANDS, _ROWS = 25, 5
_PERMUTATIONS = 128  # those past the bands, 125, are for estimates of J only
_BLOCK = 64  # texts whose signatures are computed together: what fits a processor's cache
_MIXED = 1 << 18  # permuted hashes at a time
_LARGE = 64  # texts of a bucket from which on groups are compared by their first text only


class Sketches(NamedTuple):
    """What is kept of n texts: their hashes one after the other, and a key for each band."""

    hashes: UInt64[np.ndarray, "total"]
    ends: Int[np.ndarray, "n"]
    keys: UInt64[np.ndarray, "n bands"]

    def of(self, i: int) -> Hashes:
        """The hashes of text i."""
        return self.hashes[self.ends[i - 1] if i else 0 : self.ends[i]]


def normalise(text: str) -> str:
    """NFKC, case folded, with single spaces between words and none around."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def word_hashes(text: str) -> Hashes:
    """The distinct 64-bit hashes of the runs of three words of a text, ascending."""
    digest = optional_import("xxhash", "safety").xxh3_64_intdigest
    words = normalise(text).split(" ")
    runs = {" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))} - {""}
    encoded = (run.encode("utf-8", "surrogatepass") for run in runs)
    return np.unique(np.fromiter(map(digest, encoded), np.uint64, len(runs)))


def jaccard(a: Hashes, others: list[Hashes]) -> Float[np.ndarray, "n"]:
    """``|a n b| / |a u b|`` with each of n sets b; 1 for two empty sets."""
    ends = np.cumsum([len(b) for b in others], dtype=np.int64)
    sizes = np.diff(ends, prepend=0)
    pooled = np.concatenate([*others, np.zeros(0, np.uint64)])
    found = np.zeros(len(pooled), bool)
    if len(a):
        found = a[np.minimum(np.searchsorted(a, pooled), len(a) - 1)] == pooled
    counts = np.append(0, np.cumsum(found))
    shared = counts[ends] - counts[ends - sizes]
    union = len(a) + sizes - shared
    return np.where(union == 0, 1.0, shared / np.maximum(union, 1))


def signatures(sets: list[Hashes], *, seed: int = 0) -> UInt32[np.ndarray, "n 128"]:
    """Of n sets the least value under each of 128 permutations ``h -> (a h + b mod 2^64) / 2^32``.

    The share of equal columns of two rows estimates J, with standard error ``sqrt(J (1 - J) / 128)``. The
    row of an empty set is all ones in binary.
    """
    sizes = np.array([len(s) for s in sets], np.int64)
    found = np.full((len(sets), _PERMUTATIONS), np.iinfo(np.uint32).max, np.uint32)
    if not sizes.any():
        return found
    pooled, full = np.concatenate(sets), sizes > 0
    starts = (np.cumsum(sizes) - sizes)[full]
    scale, shift = _permutations(seed)
    rows = max(1, _MIXED // len(pooled))
    for at in range(0, _PERMUTATIONS, rows):
        mixed = pooled * scale[at : at + rows, None]
        mixed += shift[at : at + rows, None]
        found[full, at : at + rows] = (np.minimum.reduceat(mixed, starts, axis=1) >> np.uint64(32)).T
    return found


def sketch(texts: Iterable[str], *, seed: int = 0) -> Sketches:
    """Hashes and band keys of texts, read once: 200 bytes a text, and 8 for each of its runs."""
    hashes, keys, ends = array("Q"), array("Q"), array("q")
    for sets in _blocks(map(word_hashes, texts)):
        for one in sets:
            hashes.frombytes(one.tobytes())
            ends.append(len(hashes))
        keys.frombytes(_band_keys(signatures(sets, seed=seed)).tobytes())
    flat = np.frombuffer(keys, np.uint64) if keys else np.zeros(0, np.uint64)
    return Sketches(
        np.frombuffer(hashes, np.uint64) if hashes else np.zeros(0, np.uint64),
        np.array(ends, np.int64),
        flat.reshape(-1, _BANDS),
    )


def group(sketches: Sketches, *, threshold: float = 0.7) -> Int[np.ndarray, "n"]:
    """The first text of each text's group: groups are joined by pairs with ``J >= threshold``, band by band.

    Equal sets are joined beforehand. In a band, texts with one key are compared with those before them that
    are not yet of their group; of more than 64 such texts, only with the first of each group.
    Raises ``ValueError`` for a threshold outside (0, 1].
    """
    require(0 < threshold <= 1, "threshold", threshold, "(0, 1]")
    first = _equal_sets(sketches)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    parents = first.copy()
    for band in range(_BANDS):
        keys = sketches.keys[distinct, band]
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        starts, stops = np.append(0, cuts), np.append(cuts, len(keys))
        for i in np.flatnonzero(stops - starts > 1):
            _join(distinct[order[starts[i] : stops[i]]].tolist(), sketches, parents, threshold)
    return np.array([_root(parents, i) for i in range(len(parents))], np.int64)


def find_near_duplicates(
    texts: Iterable[str], *, threshold: float = 0.7, seed: int = 0
) -> Int[np.ndarray, "n"]:
    """For each text the index of the first of its group, its own if it is like no earlier one.

    Near duplicates of near duplicates are of one group. 200,000 texts of 25 to 60 words take under 0.2 GB.

    Args:
      texts: read once and not kept.
      threshold: of J, in (0, 1]; below about 0.6 banding misses pairs.
      seed: of the permutations, on which only the pairs that banding misses depend.
    Raises:
      ValueError: for a threshold outside (0, 1].
      ImportError: without xxhash.
    """
    require(0 < threshold <= 1, "threshold", threshold, "(0, 1]")
    return group(sketch(texts, seed=seed), threshold=threshold)


@lru_cache(maxsize=8)
def _permutations(seed: int) -> tuple[UInt64[np.ndarray, "p"], UInt64[np.ndarray, "p"]]:
    draw = np.random.default_rng(seed).integers(0, 2**64, (2, _PERMUTATIONS), np.uint64)
    return draw[0] | np.uint64(1), draw[1]  # an odd factor: no two hashes get one value


def _band_keys(found: UInt32[np.ndarray, "n p"]) -> UInt64[np.ndarray, "n bands"]:
    """One 64-bit key for the five values of a band and the band itself: bands share no key."""
    bands = found[:, : _BANDS * _ROWS].reshape(len(found), _BANDS, _ROWS).astype(np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**64, _ROWS + _BANDS + 1, np.uint64) | np.uint64(1)
    keys = bands @ factors[:_ROWS] + factors[_ROWS : _ROWS + _BANDS]
    return (keys ^ (keys >> np.uint64(29))) * factors[-1]


def _blocks(sets: Iterator[Hashes]) -> Iterator[list[Hashes]]:
    while block := list(islice(sets, _BLOCK)):
        yield block


def _equal_sets(sketches: Sketches) -> Int[np.ndarray, "n"]:
    """For each text the first with the same hashes."""
    digest = optional_import("xxhash", "safety").xxh3_64_intdigest
    digests = np.array([digest(sketches.of(i)) for i in range(len(sketches.ends))], np.uint64)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse]


def _root(parents: Int[np.ndarray, "n"], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = int(parents[i])
    return i


def _join(texts: list[int], sketches: Sketches, parents: Int[np.ndarray, "n"], threshold: float) -> None:
    """Joins the groups of texts of one bucket, given in ascending order, that are near enough."""
    large = len(texts) > _LARGE
    before: list[int] = []
    for i in texts:
        own = _root(parents, i)
        others = [j for j in before if _root(parents, j) != own]
        if others:
            overlap = jaccard(sketches.of(i), [sketches.of(j) for j in others])
            for j in np.flatnonzero(overlap >= threshold):
                a, b = sorted((_root(parents, i), _root(parents, others[j])))
                parents[b] = a  # the lower one: a root is the first of its group
        if not large or all(_root(parents, j) != _root(parents, i) for j in before):
            before.append(i)
