"""Alignment data from verdicts: what an attack got out of the target is rejected, a safe answer is chosen.

    python -m experiments.sage_rt.export --workdir=DIR --out=DATA [--form=preference]

Columns are TRL's: of ``preference`` ``prompt, chosen, rejected``; of ``unpaired`` ``prompt, completion,
label``; of ``prompt_completion`` these without labels. A share of the rows are benign requests whose answer
is chosen over a refusal: training on attacks alone teaches to decline. Files are ``train.jsonl``,
``train.parquet`` and a card that holds counts only; raw texts never leave the run's folder.
"""

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from diffax.checks import require, require_one_of
from diffax.data.optional import optional_import
from diffax.io import new_folder
from diffax.io.files import write_text
from experiments import main
from experiments.progress import say
from experiments.sage_rt import session, stages
from experiments.sage_rt.pipeline import Run
from experiments.sage_rt.tasks import Done, draw_by

FORMS = ("preference", "unpaired", "prompt_completion")


class Pair(NamedTuple):
    """A prompt with the answer to prefer and the one not to; ``kind``: "attack" or "control"."""

    id: str
    kind: str
    prompt: str
    chosen: str
    rejected: str


def program(argv: Sequence[str]) -> None:
    """Write what the flags ask for."""
    values = flags.FLAGS.flag_values_dict()
    require_one_of("--form", values["form"], FORMS)
    share = values["control_share"]
    require(0 <= share < 1, "--control_share", share, "a number in [0, 1)")
    require(bool(values["out"]), "--out", "", "a new folder")
    with session.open_run(["aligned"]) as run:
        if values["retry_errors"]:
            run.store.retry(f"safe.{run.config.target.name}")
        found = pairs(run, share)
        require(bool(found), "--workdir", values["workdir"], "a folder in which some attacks succeeded")
        rows = write_data(run, found, values["out"], values["form"], values["conversational"])
        say(f"{rows} rows of {len(found)} prompts in {values['out']}", sys.stdout)


def write_data(
    run: Run, found: Sequence[Pair], out: str | Path, form: str, conversational: bool = False
) -> int:
    """The new folder ``out``; how many rows it has."""
    rows = [row for pair in found for row in as_rows(pair, form, conversational)]
    with new_folder(out) as folder:
        write(folder, rows)
        write_text(folder / "README.md", card(run, found, form))
    return len(rows)


def pairs(run: Run, share: float, styles: Collection[str] = ()) -> list[Pair]:
    """Pairs of attacks that succeeded, in some styles or in all, and as many controls as make their share;
    by id. Where controls are too few for all attacks, attacks are left out, drawn by their ids."""
    unsafe, controls = _chosen(run, share, styles)
    safe = {row.inputs["query"]: row.result for row in stages.safe(run, [*unsafe, *controls])}
    declined = [safe[row.inputs["query"]]["text"] for row in unsafe if _has_text(safe, row)]
    found = [_pair(row, safe, row.result["text"]) for row in unsafe if _has_text(safe, row)]
    for row, refusal in zip(controls, declined * (1 + len(controls) // max(1, len(declined)))):
        if _has_text(safe, row):
            found.append(_pair(row, safe, refusal))
    return sorted(
        (pair for pair in found if pair.chosen.strip() != pair.rejected.strip()), key=lambda p: p.id
    )


def _chosen(run: Run, share: float, styles: Collection[str]) -> tuple[list[Done], list[Done]]:
    """Answers to attacks that succeeded, and to controls, in the proportion that is asked for."""
    name = run.config.target.name
    verdicts = {row.inputs["query"]: row.result["outcome"] for row in run.store.rows(f"judge.{name}")}
    rows = run.store.rows(f"respond.{name}")
    answers = sorted(
        (row for row in rows if not styles or row.inputs["style"] in styles),
        key=lambda row: draw_by("pair", row.id).random(),
    )
    attacks = [row for row in answers if row.inputs["kind"] == "attack"]
    unsafe = [row for row in attacks if verdicts.get(row.inputs["query"]) == "unsafe"]
    controls = [row for row in answers if row.inputs["kind"] == "control"]
    most = int(len(controls) * (1 - share) / share) if share else len(unsafe)
    if most < len(unsafe):
        say(
            f"{len(unsafe) - most} attacks are left out: {len(controls)} controls are a {share:g} of the rest"
        )
    kept = unsafe[:most]
    return kept, controls[: round(len(kept) * share / (1 - share))]


def as_rows(pair: Pair, form: str, conversational: bool) -> Iterator[dict[str, Any]]:
    """A pair in the columns of a form."""

    def said(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if conversational else text

    prompt, chosen = said("user", pair.prompt), said("assistant", pair.chosen)
    rejected = said("assistant", pair.rejected)
    if form == "preference":
        yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    elif form == "unpaired":
        yield {"prompt": prompt, "completion": chosen, "label": True}
        yield {"prompt": prompt, "completion": rejected, "label": False}
    else:
        yield {"prompt": prompt, "completion": chosen}


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``train.jsonl`` and ``train.parquet``."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(folder / "train.jsonl", "\n".join(lines) + "\n")
    arrow, parquet = optional_import("pyarrow", "safety"), optional_import("pyarrow.parquet", "safety")
    parquet.write_table(arrow.Table.from_pylist(list(rows)), folder / "train.parquet", compression="zstd")


def card(run: Run, found: Sequence[Pair], form: str) -> str:
    """What a reader of the data has to know, without any of it."""
    kinds = Counter(pair.kind for pair in found)
    lines = [
        f"# Alignment data: {form}",
        "",
        f"Taxonomy {run.taxonomy.name}, target {run.config.target.name}. "
        f"Prompts whose answers broke the policy: {kinds['attack']}; "
        f"benign prompts, answered: {kinds['control']}.",
        "Synthetic: written by models, judged automatically; made to repair the model that it was made with.",
    ]
    return "\n".join(lines) + "\n"


def _pair(row: Done, safe: dict[str, dict[str, Any]], rejected: str) -> Pair:
    query = row.inputs["query"]
    return Pair(query, row.inputs["kind"], row.inputs["text"], safe[query]["text"], rejected)


def _has_text(safe: dict[str, dict[str, Any]], row: Done) -> bool:
    return safe[row.inputs["query"]]["status"] == "ok"


if __name__ == "__main__":
    session.define_flags()
    flags.DEFINE_string("out", "", "new folder to write")
    flags.DEFINE_string("form", "preference", f"one of {FORMS}")
    flags.DEFINE_float("control_share", 0.2, "of the rows that are benign requests")
    flags.DEFINE_bool("conversational", False, "texts as lists of messages")
    sys.exit(main.run(program))
