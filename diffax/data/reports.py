"""Reports in a small controlled vocabulary: sentences about heads, and vectors that networks read.

A report states up to four facts of :func:`diffax.data.phantoms.facts`: "large lesion on the left, normal
ventricles", or "no lesion, enlarged ventricles". A network sees which words occur, :data:`WORDS` in order; a
fact that is not mentioned is left open.
"""

import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from diffax.checks import require

WORDS = ("no", "lesion", "left", "right", "small", "large", "normal", "enlarged")
FILLERS = ("a", "and", "in", "of", "on", "side", "the", "ventricles", "with")
_PAIRS = (("left", "right"), ("small", "large"), ("normal", "enlarged"))


def write_report(facts: Bool[np.ndarray, "4"] | Sequence[bool]) -> str:
    """The sentence that states ``lesion, left, large, enlarged``."""
    lesion, left, large, enlarged = (bool(fact) for fact in facts)
    size, side = "large" if large else "small", "left" if left else "right"
    first = f"{size} lesion on the {side}" if lesion else "no lesion"
    return f"{first}, {'enlarged' if enlarged else 'normal'} ventricles"


def read_report(text: str) -> Float32[np.ndarray, "words"]:
    """Which of :data:`WORDS` a sentence holds, as zeros and ones.

    Raises ``ValueError`` for a word that is not known, for both of a pair such as left and right, and for the
    side or size of no lesion.
    """
    words = set(re.findall(r"[a-z]+", text.lower()))
    unknown = sorted(words - set(WORDS) - set(FILLERS))
    require(not unknown, "report", ", ".join(unknown), "the words " + ", ".join((*WORDS, *FILLERS)))
    for pair in _PAIRS:
        require(not set(pair) <= words, "report", text, f"one of {pair[0]} and {pair[1]}")
    described = words & {"left", "right", "small", "large"}
    require("no" not in words or not described, "report", text, "no side or size where there is no lesion")
    if described or "no" in words:
        words.add("lesion")
    return np.array([word in words for word in WORDS], np.float32)


def report_vectors(
    facts: Bool[Array, "b 4"], said: Bool[Array, "b 4"] | None = None
) -> Float[Array, "b words"]:
    """What :func:`read_report` makes of the reports of a batch; ``said``: which facts they mention, or all.

    Without the first fact the side and size of a lesion are left out too.
    """
    lesion, left, large, enlarged = jnp.moveaxis(facts, -1, 0)
    told, side, size, ventricles = (
        jnp.ones(facts.shape[:1], bool) if said is None else said[:, i] for i in range(4)
    )
    side, size = side & told & lesion, size & told & lesion
    found = (
        told & ~lesion,
        told,
        side & left,
        side & ~left,
        size & ~large,
        size & large,
        ventricles & ~enlarged,
        ventricles & enlarged,
    )
    return jnp.stack(found, axis=-1).astype(jnp.float32)
