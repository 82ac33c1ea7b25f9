"""A target's safety before and after compression, on the same prompts: attacks, refusals, babble, perplexity.

    python -m experiments.sage_rt.compression --workdir=DIR [--ratios=0.1,0.3,0.5] [--method=modegpt]
    python -m experiments.sage_rt.compression --workdir=DIR --calibration=FILES --text=FILE

``DIR`` is a folder whose target is a Flax model and was evaluated. The smaller ones are made by
``experiments.modegpt`` and answer under names of their own (``target-modegpt-30``); ``compression.csv``,
``.html`` and ``.png`` set them side by side. Toyland's own decoder brings its calibration text along.

``keyword_success`` is what counting refusals' words would report: all that is no refusal. ``margin`` is the
mean of ``log p(refusal's opener) - log p(an answer's opener)`` after the prompts; nothing is sampled."""

import base64
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.data.text import join_documents, read_documents, token_chunks
from diffax.evaluation.rates import mcnemar
from diffax.evaluation.text import decoder_logits, perplexity
from diffax.io.decoder_files import DecoderFiles
from diffax.io.files import write_atomically, write_text
from experiments import main
from experiments.modegpt.allocation import layer_parameters
from experiments.modegpt.runner import Runner
from experiments.modegpt.tables import Walk, settings_of
from experiments.progress import say
from experiments.sage_rt import metrics, report, session, stages, toytext
from experiments.sage_rt.backends.base import Message
from experiments.sage_rt.backends.flax_lm import FlaxBackend
from experiments.sage_rt.chat_model import ChatModel
from experiments.sage_rt.metrics import Judged
from experiments.sage_rt.pipeline import Run

_PROBED = 256  # prompts of each kind for the margin
_SEED = 11  # of the text that perplexity is measured on


class Row(NamedTuple):
    """One model. Rates are of scored answers; ``newly_unsafe``: of attacks that the first row's model
    withstood; ``p``: McNemar's, of attack success against the first row."""

    target: str
    removed: float
    attack_success: float
    low: float
    high: float
    newly_unsafe: float
    keyword_success: float
    over_refusal: float
    degenerate: float
    degenerate_controls: float
    perplexity: float
    margin: float
    margin_controls: float
    p: float


class Texts(NamedTuple):
    """Tokens to calibrate with; rows to measure perplexity on, and which of their tokens count."""

    calibration: np.ndarray
    measured: np.ndarray
    counts: np.ndarray


def program(argv: Sequence[str]) -> None:
    """Compress, answer, judge, compare."""
    values = flags.FLAGS.flag_values_dict()
    ratios = [_ratio(text) for text in values["ratios"]]
    with session.open_run(["target", "judge"]) as run:
        rows = table(run, ratios, values)
        write(run.store.folder, rows)
        report.write(run)
        say(f"wrote {run.store.folder / 'compression.html'}", sys.stdout)


def table(run: Run, ratios: Sequence[float], values: dict[str, Any]) -> list[Row]:
    """A row for the target as it is, then one for each ratio."""
    kind = run.config.target.kind
    require(kind == "flax", "config.target.kind", kind, "flax: other models cannot be compressed here")
    name, folder = run.config.target.name, model_folder(run)
    settings = {values["method"]: settings_of(values["method"], run.config.seed)}
    files, base = DecoderFiles(folder), ChatModel.read(folder)
    texts = _texts(base, values)
    before = answered(run, base, name)
    rows = [_row(run, name, 0.0, base, before, before, texts)]
    walk = Walk(Runner(files), texts.calibration, settings)
    whole = layer_parameters(files.config, files.config.layers)
    for ratio in ratios:
        config, params = walk.make(values["method"], ratio)
        small, label = ChatModel(config, params, base.tokenizer), _label(name, values["method"], ratio)
        removed = 1 - layer_parameters(config, config.layers) / whole
        rows.append(_row(run, label, removed, small, answered(run, small, label), before, texts))
    return rows


def answered(run: Run, model: ChatModel, name: str) -> list[Judged]:
    """A model's verdicts, as another target of the folder."""
    config = ConfigDict(run.config.to_dict())
    config.target.name = name
    backends = {**run.backends, "target": FlaxBackend(lambda: model, run.config.target.concurrency)}
    other = run._replace(config=config, backends=backends)
    stages.respond(other)
    stages.judge(other)
    return metrics.judged(run.store.rows(f"judge.{name}"))


def model_folder(run: Run) -> Path:
    """Where the target's checkpoint is."""
    name = run.config.target.model
    return run.store.folder / "toyland_lm" / "model" if name == "toyland" else Path(name)


def write(folder: Path, rows: Sequence[Row]) -> None:
    """``compression.csv``, ``compression.png``, ``compression.html``."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows(rows)
    write_text(folder / "compression.csv", text.getvalue())
    plot(folder / "compression.png", rows)
    picture = base64.b64encode((folder / "compression.png").read_bytes()).decode()
    jinja = optional_import("jinja2", "safety")
    template = (Path(__file__).parent / "compression.html").read_text(encoding="utf-8")
    page = jinja.Environment(autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True)
    write_text(folder / "compression.html", page.from_string(template).render(rows=rows, picture=picture))


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Rates, and perplexity, over what was removed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    x = [100 * row.removed for row in rows]
    for name, label in (("attack_success", "attacks that succeed"), ("keyword_success", "by refusals' words"),
                        ("over_refusal", "benign declined"), ("degenerate", "attacks: babble")):  # fmt: skip
        axes[0].plot(x, [100 * getattr(row, name) for row in rows], "o-", label=label, markersize=4)
    bounds = [[100 * row.low for row in rows], [100 * row.high for row in rows]]
    axes[0].fill_between(x, *bounds, alpha=0.2)
    axes[0].set(ylabel="% of answers", ylim=(-3, 103))
    axes[0].legend(fontsize=8)
    axes[1].plot(x, [row.perplexity for row in rows], "o-", markersize=4)
    axes[1].set(ylabel="perplexity", yscale="log")
    axes[2].plot(x, [row.margin for row in rows], "o-", label="attacks", markersize=4)
    axes[2].plot(x, [row.margin_controls for row in rows], "o-", label="benign", markersize=4)
    axes[2].axhline(0, color="black", linewidth=0.8, linestyle=":")
    axes[2].set(ylabel="refusal's margin, nats")
    axes[2].legend(fontsize=8)
    for each in axes:
        each.set(xlabel="% of the layers' parameters removed")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)


def _row(
    run: Run,
    name: str,
    removed: float,
    model: ChatModel,
    rows: Sequence[Judged],
    before: Sequence[Judged],
    texts: Texts,
) -> Row:
    found = {figure.name: figure for figure in metrics.figures(rows, run.taxonomy, run.config.eval, 0)}
    changed = {figure.name: figure.value for figure in metrics.compare(before, rows, run.config.eval)}
    success = found["attack_success"]
    withstood = sum(one.kind == "attack" and one.outcome != "unsafe" for one in before)
    logits = decoder_logits(model.model, model.params)
    row = Row(
        target=name,
        removed=removed,
        attack_success=success.value,
        low=float(success.low or 0.0),
        high=float(success.high or 0.0),
        newly_unsafe=changed["attack_success/worse"] / max(1, withstood),
        keyword_success=1 - found["attack/refusal"].value,
        over_refusal=found["over_refusal"].value,
        degenerate=found["attack/degenerate"].value,
        degenerate_controls=found["control/degenerate"].value,
        perplexity=perplexity(logits, texts.measured, mask=texts.counts).value,
        margin=_margin(run, model, "attack"),
        margin_controls=_margin(run, model, "control"),
        p=mcnemar(int(changed["attack_success/worse"]), int(changed["attack_success/better"])),
    )
    say(" ".join(f"{key}={value:.3g}" for key, value in row._asdict().items() if key != "target"), sys.stdout)
    return row


def _margin(run: Run, model: ChatModel, kind: str) -> float:
    """Over the first prompts of a kind, by id."""
    stays = (row for row in run.store.rows("query") if row.result["status"] == "ok")
    texts = [row.result["text"] for row in stays if row.inputs["kind"] == kind][:_PROBED]
    prompts = [(Message("user", text),) for text in texts]
    declined, met = (
        np.asarray(model.log_probabilities([(asked, run.config.eval[opener]) for asked in prompts]))
        for opener in ("refusal_opener", "answer_opener")
    )
    return float(np.mean(declined - met))


def _texts(model: ChatModel, values: dict[str, Any]) -> Texts:
    """Toyland's own, or those of files."""
    tokenizer, length = model.tokenizer, min(48, model.config.positions)
    if not values["calibration"]:
        pairs = toytext.draw_pairs(768, _SEED)
        measured, counts = toytext.encode_pairs(tokenizer, pairs[:256], length)
        rows, _ = toytext.encode_pairs(tokenizer, pairs[256:], length)
        return Texts(token_chunks(rows[rows > 0], length), measured, counts)
    require(bool(values["text"]), "--text", "", "a file to measure perplexity on, with --calibration")
    length = min(512, model.config.positions)
    ids, other = (
        tokenizer.encode(join_documents(read_documents(values[name]))) for name in ("calibration", "text")
    )
    measured = token_chunks(other, length, name="--text")
    calibration = token_chunks(ids, length, name="--calibration")[:128]
    return Texts(calibration, measured, np.ones(measured.shape, bool))


def _label(name: str, method: str, ratio: float) -> str:
    return f"{name}-{method}-{100 * ratio:g}".replace(".", "_").replace(":", "-")


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = float("nan")
    require(0 < ratio < 1, "--ratios", text, "numbers in (0, 1)")
    return ratio


if __name__ == "__main__":
    session.define_flags()
    flags.DEFINE_list("ratios", ["0.1", "0.3", "0.5", "0.6", "0.7", "0.75"], "shares to remove")
    flags.DEFINE_string("method", "modegpt", "as experiments.modegpt.compare names them")
    flags.DEFINE_list("calibration", [], "files of text; empty: Toyland's")
    flags.DEFINE_list("text", [], "files to measure perplexity on")
    sys.exit(main.run(program))
