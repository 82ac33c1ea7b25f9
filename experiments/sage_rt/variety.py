"""How unlike each other a run's prompts are, and how evenly they cover the taxonomy."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from diffax.evaluation import Figure
from diffax.evaluation.diversity import (
    compression_ratio,
    coverage,
    distinct_n,
    evenness,
    hashed_words,
    self_bleu,
    vendi_score,
)
from experiments.sage_rt.pipeline import Run

_BATCH = 2000


def figures(run: Run) -> list[Figure]:
    """Of the prompts that stay, without controls; none of a run without any."""
    kept = [row for row in run.store.rows("query") if row.result["status"] == "ok"]
    kept = [row for row in kept if row.inputs["kind"] == "attack"]
    texts, n = [row.result["text"] for row in kept], len(kept)
    if n < 2:
        return []
    leaves = Counter(row.inputs["leaf"] for row in kept)
    topics = Counter((row.inputs["leaf"], row.inputs["topic"]) for row in kept)
    values = {
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "distinct_3": distinct_n(texts, 3),
        "self_bleu": self_bleu(texts, seed=run.config.seed),
        "compression_ratio": compression_ratio(texts),
        "vendi": vendi_score(map(hashed_words, _batches(texts))),
        "leaf_coverage": coverage([leaves[node.id] for node in run.taxonomy.targets]),
        "leaf_evenness": evenness([leaves[node.id] for node in run.taxonomy.targets]),
        "topics": float(len(topics)),
    }
    return [
        Figure(f"prompts/{name}", value, n_fake=n, seed=run.config.seed) for name, value in values.items()
    ]


def _batches(texts: list[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, _BATCH)):
        yield some
