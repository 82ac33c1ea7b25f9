"""Sentences as vectors, without a network to download: hashed pieces of words, projected at random.

Every word, pair of neighbouring words and run of three letters is a piece; pieces hash to directions of a
fixed Gaussian, whose sum is scaled to length 1. Equal sentences give equal vectors on every machine, those
that share words lie near each other; meanings that do not show in the letters are not understood.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from diffax.checks import require


def embed_sentences(sentences: Sequence[str], dim: int = 512) -> Float[np.ndarray, "n d"]:
    """A vector of length 1 for each sentence; case, punctuation and spaces do not matter.

    Raises ValueError for a sentence without letters or digits.
    """
    require(dim >= 1, "dim", dim, "an integer >= 1")
    return np.stack([_embed(sentence, dim) for sentence in sentences])


def _embed(sentence: str, dim: int) -> Float[np.ndarray, "d"]:
    words = re.findall(r"[a-z0-9]+", sentence.lower())
    require(bool(words), "sentence", sentence, "words of letters or digits")
    total = np.sum([_direction(piece, dim) for piece in _pieces(words)], axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def _pieces(words: Sequence[str]) -> Iterator[str]:
    yield from words
    yield from (f"{a} {b}" for a, b in itertools.pairwise(words))
    for word in (f"^{word}$" for word in words):
        yield from (f"#{word[i : i + 3]}" for i in range(len(word) - 2))


def _direction(piece: str, dim: int) -> Float[np.ndarray, "d"]:
    """Of a piece; numpy's legacy generator, whose numbers are frozen."""
    seed = int.from_bytes(hashlib.sha256(piece.encode()).digest()[:4], "little")
    return np.random.RandomState(seed).standard_normal(dim)
