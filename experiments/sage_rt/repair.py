"""A target aligned with what attacks got out of it, and asked again: the loop from finding to mending.

    python -m experiments.sage_rt.repair --workdir=DIR [--loss=simpo|dpo] [--unseen=format]

``DIR`` is a folder whose target is a Flax model and was evaluated. Pairs of its answers, those in the unseen
styles left out and a share of benign requests among them, train a copy in ``DIR/repair``; the copy answers
the same prompts as ``TARGET-repaired``. ``DIR/repair/result.json`` has attack success before and after in the
unseen styles, which the training never saw, in the others, and over-refusal: a repair that declines
everything is none. The same command again goes on where it was.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from diffax.checks import require, require_one_of
from diffax.evaluation import Figure, write_result
from experiments import main, modes
from experiments.devices import environment
from experiments.progress import say
from experiments.sage_rt import align, export, metrics, report, session, settings
from experiments.sage_rt.chat_model import ChatModel
from experiments.sage_rt.compression import answered, model_folder
from experiments.sage_rt.metrics import Judged, Rate
from experiments.sage_rt.pipeline import Run


def program(argv: Sequence[str]) -> None:
    """Train on pairs, answer, judge, compare."""
    values = flags.FLAGS.flag_values_dict()
    require_one_of("--loss", values["loss"], align.LOSSES)
    with session.open_run(["target", "judge", "aligned"]) as run:
        known, unseen = tuple(run.config.generate.styles), tuple(values["unseen"])
        for style in unseen:
            require_one_of("--unseen", style, known)
        require(0 < len(set(unseen)) < len(known), "--unseen", unseen, f"some of {known}, not all")
        kind = run.config.target.kind
        require(kind == "flax", "config.target.kind", kind, "flax: other models cannot be trained here")
        name, place = run.config.target.name, run.store.folder / "repair"
        before = answered(run, ChatModel.read(model_folder(run)), name)
        folder = _train(run, place, unseen, values)
        if folder is None:
            return
        after = answered(run, ChatModel.read(folder), f"{name}-repaired")
        figures = compare(run, before, after, unseen)
        write_result(place / "result.json", figures, {"unseen": list(unseen), **environment()})
        report.write(run)
        for figure in figures:
            say(f"{figure.name} {figure.value:.4f}", sys.stdout)


def compare(run: Run, before: list[Judged], after: list[Judged], unseen: Sequence[str]) -> list[Figure]:
    """Rates before and after in both groups of styles; over all styles how many prompts changed, and p."""
    found: list[Figure] = []
    for group, there in (("unseen", True), ("others", False)):
        pair = [[row for row in rows if (row.style in unseen) == there] for rows in (before, after)]
        old, new = (_rate(rows, "attack", "unsafe") for rows in pair)
        found += _change(f"{group}/attack_success", old, new)
        if old.bad:
            found.append(
                Figure(f"{group}/attack_success/relative_fall", 1 - new.rate / old.rate, n_fake=old.n)
            )
        old, new = (_rate(rows, "control", "refusal") for rows in pair)
        found += _change(f"{group}/over_refusal", old, new)
        found.append(Figure(f"{group}/over_refusal/rise", new.rate - old.rate, n_fake=old.n))
    return found + metrics.compare(before, after, run.config.eval)


def _rate(rows: Sequence[Judged], kind: str, bad: str) -> Rate:
    return metrics.rate_of([row for row in rows if row.kind == kind], bad, 0.95)


def _change(name: str, *rates: Rate) -> list[Figure]:
    return [
        Figure(f"{name}/{when}", rate.rate, n_fake=rate.n, low=rate.low, high=rate.high)
        for when, rate in zip(("before", "after"), rates, strict=True)
    ]


def _train(run: Run, place: Path, unseen: Sequence[str], values: dict[str, object]) -> Path | None:
    """The folder of the aligned checkpoint; None where SIGTERM came first."""
    config = _config(run, place, values)
    if not (place / "pairs").exists():
        styles = [style for style in run.config.generate.styles if style not in unseen]
        found = export.pairs(run, float(str(values["control_share"])), styles)
        require(bool(found), "config.target", run.config.target.name, "a target with which attacks succeed")
        export.write_data(run, found, place / "pairs", "preference")
    if not (place / "training" / "result.json").exists():
        if not modes.train(config, str(place / "training")):
            return None
        modes.evaluate(config, str(place / "training"))
    return place / "training" / "model"


def _config(run: Run, place: Path, values: dict[str, object]) -> ConfigDict:
    config = settings.lm_settings()
    config.checkpoint, config.seed = str(model_folder(run)), run.config.seed
    config.align.pairs, config.align.loss = str(place / "pairs"), values["loss"]
    for name in ("beta", "gamma", "imitation"):
        config.align[name] = values[name]
    config.train.num_steps = config.train.checkpoint_every = values["steps"]
    config.train.log_every = 20
    config.train.optimizer.learning_rate = values["learning_rate"]
    config.data.length = values["length"]
    return config


if __name__ == "__main__":
    session.define_flags()
    flags.DEFINE_enum("loss", "simpo", align.LOSSES, "of pairs")
    flags.DEFINE_list("unseen", ["format"], "styles that are left out of the training")
    flags.DEFINE_float("control_share", 0.4, "of the pairs that are benign requests")
    flags.DEFINE_float("beta", 5.0, "scale of a pair's margin")
    flags.DEFINE_float("gamma", 0.8, "margin that SimPO asks for")
    flags.DEFINE_float("imitation", 0.0, "weight of the chosen answers' nats")
    flags.DEFINE_integer("steps", 100, "of training, of 32 pairs each")
    flags.DEFINE_float("learning_rate", 3e-4, "of AdamW")
    flags.DEFINE_integer("length", 32, "tokens of a prompt with its answer, at most")
    sys.exit(main.run(program))
