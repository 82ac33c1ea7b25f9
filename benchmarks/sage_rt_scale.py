"""A whole run at the published size on scripted models: pairs, topics, seconds, memory; counts checked.

    python benchmarks/sage_rt_scale.py [--workdir=DIR] [--variant=paper]

The programs run as a user runs them, each in a process whose peak memory the kernel tells. What the manifest
counts is counted again from the Parquet files, by pyarrow alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
from common import print_table

ROOT = Path(__file__).parents[1]
CONFIG = "configs/sage_rt/toyland.py"


def timed(name: str, *flags: str) -> dict[str, Any]:
    """Run one of the experiment's programs; seconds and peak memory."""
    begun = time.perf_counter()
    words = [sys.executable, "-m", f"experiments.sage_rt.{name}", *flags]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: exit status {process.returncode}")
    return {"program": name, "seconds": time.perf_counter() - begun, "peak GB": used.ru_maxrss / 2**20}


def rows(folder: Path, stage: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and results of a stage's files."""
    for file in sorted((folder / "data" / stage).glob("*.parquet")):
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(5000):
            for row in batch.to_pylist():
                yield json.loads(row["inputs"]), json.loads(row["result"])


def recount(folder: Path) -> tuple[dict[str, int], dict[str, int], int]:
    """Items of each stage, queries of each leaf, topics."""
    counts: Counter[str] = Counter()
    leaves: Counter[str] = Counter()
    topics = set()
    for stage in ("raw", "extract", "control", "query", "respond.target"):
        for inputs, result in rows(folder, stage):
            if stage == "raw":
                topics.add((inputs["leaf"], inputs["topic"]))
            if "items" in result:
                counts[stage] += len(result["items"])
            elif result["status"] in ("ok", "length") and inputs.get("kind") != "control":
                counts[stage] += 1
                leaves[inputs["leaf"]] += stage == "query"
    return dict(counts), {leaf: n for leaf, n in leaves.items() if n}, len(topics)


def main() -> None:
    """Run, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="")
    parser.add_argument("--variant", default="paper")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.workdir or Path(temporary) / "run")
        where = f"--workdir={folder}"
        programs = [timed("generate", f"--config={CONFIG}:{options.variant}", where)]
        programs += [timed("evaluate", where), timed("report", where)]
        print_table(programs)
        manifest = json.loads((folder / "manifest.json").read_text())
        counts, leaves, topics = recount(folder)
    same = counts == manifest["counts"] and leaves == manifest["queries_by_leaf"]
    total = {
        "pairs": counts["respond.target"],
        "topics": topics,
        "leaves": len(leaves),
        "seconds": sum(one["seconds"] for one in programs),
        "peak GB": max(one["peak GB"] for one in programs),
        "counts agree": same,
    }
    print_table([total])
    if not same:
        raise SystemExit(f"the manifest counts {manifest['counts']}, the files hold {counts}")


if __name__ == "__main__":
    main()
