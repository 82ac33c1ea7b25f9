"""Near-duplicate texts: what is found of planted copies, what is merged of unrelated texts; time and memory.

    python benchmarks/near_duplicates.py [--documents=200000]

20,000 unrelated documents of 25 to 60 made-up words, with 200 copies of them in each of three degrees of
editing; then many more documents, in a process of their own, whose peak of memory is the figure.
"""

import argparse
import itertools
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from diffax.data.near_duplicates import find_near_duplicates, jaccard, word_hashes

WORDS = 8000
SHARES = (0.02, 0.05, 0.1)


def documents(count: int, seed: int) -> Iterator[str]:
    """Texts whose words' frequencies fall as Zipf's law says."""
    draw = random.Random(seed)
    parts = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    known = ["".join(draw.choices(parts, k=draw.randint(2, 4))) for _ in range(WORDS)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, WORDS + 1)))
    for _ in range(count):
        yield " ".join(draw.choices(known, cum_weights=weights, k=draw.randint(25, 60)))


def edited(text: str, share: float, draw: random.Random) -> str:
    """With some words replaced."""
    words = text.split()
    for place in draw.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = f"new{draw.random()}"
    return " ".join(words)


def planted() -> None:
    """The table of what is found."""
    draw, texts = random.Random(0), list(documents(20_000, 1))
    copies = [(i, share, edited(texts[i], share, draw)) for share in SHARES for i in range(200)]
    begun = time.monotonic()
    found = find_near_duplicates([*texts, *(text for _, _, text in copies)], threshold=0.7)
    print(f"20,600 documents in {time.monotonic() - begun:.1f} s")
    merged = int(np.sum(found[:20_000] != np.arange(20_000)))
    print(f"unrelated documents merged: {merged} of 20,000")
    hits = np.asarray([found[20_000 + n] == i for n, (i, _, _) in enumerate(copies)])
    truth = np.asarray([jaccard(word_hashes(text), [word_hashes(texts[i])])[0] for i, _, text in copies])
    for share in SHARES:
        rows = np.asarray([each == share for _, each, _ in copies])
        print(f"edits {share:.0%}: mean J {truth[rows].mean():.2f}, found {hits[rows].mean():.3f}")
    for least in (0.7, 0.8):
        rows = truth >= least
        print(f"J >= {least}: found {hits[rows].mean():.4f} of {rows.sum()}")


def many(count: int) -> None:
    """Seconds and peak memory of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    found = find_near_duplicates(documents(count, 2), threshold=0.7)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = int(np.sum(found == np.arange(count)))
    print(f"{count} documents: {seconds:.0f} s, their making included; {kept} kept; "
          f"peak {peak / 1e6:.2f} GB, {before / 1e6:.2f} GB before")  # fmt: skip


def main() -> None:
    """Both, the second in another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--many", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.many:
        many(options.documents)
        return
    planted()
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, "--many", f"--documents={options.documents}"], check=True)


if __name__ == "__main__":
    main()
