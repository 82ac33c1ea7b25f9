"""Prompts from a taxonomy: topics, raw texts, queries by style, a benign control set; no near-duplicates.

    python -m experiments.sage_rt.generate --config=configs/sage_rt/toyland.py:demo --workdir=DIR

The same command again goes on where it was, after whatever stopped it.
"""

import sys
from collections.abc import Sequence

from absl import flags

from diffax.checks import require
from experiments import main
from experiments.progress import say
from experiments.sage_rt import session, stages
from experiments.sage_rt.pipeline import Run


def program(argv: Sequence[str]) -> None:
    """Generate what the configuration asks for."""
    with session.open_run(["generator"]) as run:
        fill(run, flags.FLAGS["retry_errors"].value)


def fill(run: Run, retry: bool) -> None:
    """All stages, and the manifest; ``retry``: ask again what ended in an error."""
    for stage in ("expand", "raw", "extract", "control") if retry else ():
        run.store.retry(stage, "query")
    stages.generate(run)
    manifest = session.write_manifest(run)
    left_out, counts = len(manifest["leaves_without_queries"]), manifest["counts"]
    say(f"{counts['query']} queries for {len(manifest['queries_by_leaf'])} leaves", sys.stdout)
    allowed = "a model that answers; --retry_errors asks again for what ended in an error"
    require(counts["query"] > 0, "config.generator", "no query from it", allowed)
    say(f"{left_out} leaves without queries, folder {run.store.folder}", sys.stdout)


if __name__ == "__main__":
    session.define_flags("configs/sage_rt/toyland.py:demo")
    sys.exit(main.run(program))
