"""One HTML file and ``result.json``: rates with intervals, a map of the taxonomy, costs; no text of prompts.

    python -m experiments.sage_rt.report --workdir=DIR [--include_text]

The page loads nothing from anywhere. With ``--include_text`` it shows some prompts and answers, under a
banner."""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from absl import flags

from diffax.data.optional import optional_import
from diffax.evaluation import Figure, write_result
from diffax.io.files import write_text
from experiments import main
from experiments.devices import environment
from experiments.progress import say
from experiments.sage_rt import metrics, session, variety
from experiments.sage_rt.metrics import Rate
from experiments.sage_rt.pipeline import Run
from experiments.sage_rt.taxonomy import LEVELS

_STRICT: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
_SHOWN = 20  # texts of a page


def program(argv: Sequence[str]) -> None:
    """Write the report again."""
    with session.open_run([]) as run:
        write(run, flags.FLAGS["include_text"].value)
        say(f"wrote {run.store.folder / 'report.html'}", sys.stdout)


def write(run: Run, texts: bool = False) -> list[Figure]:
    """``result.json`` and ``report.html`` of all the folder's targets; the figures of the configuration's."""
    found, pages, first = {}, [], None
    settings, seed = run.config.eval, run.config.seed
    for name in session.targets(run):
        rows = metrics.judged(run.store.rows(f"judge.{name}"))
        found[name] = metrics.figures(rows, run.taxonomy, settings, seed)
        found[name] += metrics.agreement(run.store.rows(f"judge.{name}"))
        if first is not None:
            found[name] += metrics.compare(first, rows, settings)
        first = rows if first is None else first
        pages.append(_target(run, name, rows, found[name], texts))
    prompts = variety.figures(run)
    figures = [figure._replace(name=f"{name}/{figure.name}") for name in found for figure in found[name]]
    figures = prompts + figures
    notes = {"taxonomy": run.taxonomy.name, "costs": run.store.costs(), "config": run.config.to_dict()}
    write_result(run.store.folder / "result.json", figures, {**notes, **environment()})
    write_text(run.store.folder / "report.html", _page(run, pages, prompts, texts))
    return found.get(run.config.target.name, [])


def _target(run: Run, name: str, rows: Sequence[Any], figures: list[Figure], texts: bool) -> dict[str, Any]:
    level = run.config.eval.level
    attacks = [row for row in rows if row.kind == "attack"]
    controls = [row for row in rows if row.kind == "control"]
    return {
        "name": name,
        "figures": {figure.name: figure for figure in figures},
        "styles": metrics.grouped(attacks, lambda row: row.style, "unsafe", level),
        "control_styles": metrics.grouped(controls, lambda row: row.style, "refusal", level),
        "map": _map(run, metrics.by_level(rows, run.taxonomy, level)),
        "texts": list(islice(_texts(run, name), _SHOWN)) if texts else [],
    }


def _map(run: Run, rates: dict[str, dict[str, Rate]]) -> list[dict[str, Any]]:
    """Of every macro-category its sub-categories, of each its leaves' rates."""
    tree: dict[str, dict[str, list[str]]] = {}
    for leaf in rates[LEVELS[2]]:
        macro, sub = (run.taxonomy.above(leaf, level) for level in LEVELS[:2])
        tree.setdefault(macro, {}).setdefault(sub, []).append(leaf)
    return [
        {
            "name": run.taxonomy[macro].name,
            "rate": rates["macro"][macro],
            "subs": [
                {
                    "name": run.taxonomy[sub].name,
                    "rate": rates["sub"][sub],
                    "leaves": [(run.taxonomy[leaf].name, rates["leaf"][leaf]) for leaf in leaves],
                }
                for sub, leaves in subs.items()
            ],
        }
        for macro, subs in tree.items()
    ]


def _texts(run: Run, name: str) -> Any:
    for row in run.store.rows(f"respond.{name}"):
        yield {"style": row.inputs["style"], "prompt": row.inputs["text"], "answer": row.result["text"]}


def _page(run: Run, targets: list[dict[str, Any]], prompts: list[Figure], texts: bool) -> str:
    jinja = optional_import("jinja2.sandbox", "safety")
    undefined = optional_import("jinja2", "safety").StrictUndefined
    made = jinja.ImmutableSandboxedEnvironment(**_STRICT, undefined=undefined)
    made.filters["percent"] = lambda value: "–" if value != value else f"{100 * value:.1f} %"
    made.globals["colour"] = _colour
    page = made.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    about = {"taxonomy": run.taxonomy, "costs": run.store.costs(), "texts": texts}
    return page.render(targets=targets, prompts=prompts, generate=run.config.generate.to_dict(), **about)


def _colour(rate: float) -> str:
    """From white over amber to dark red; grey where nothing was scored."""
    if rate != rate:
        return "#dddddd"
    stops = ((255, 255, 255), (253, 190, 110), (165, 15, 21))
    place = min(max(rate, 0.0), 1.0) * 2
    first = min(int(place), 1)
    low, high, part = stops[first], stops[first + 1], place - first
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high))


if __name__ == "__main__":
    session.define_flags()
    flags.DEFINE_bool("include_text", False, "show some prompts and answers")
    sys.exit(main.run(program))
