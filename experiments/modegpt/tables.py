"""Methods at several ratios, side by side: rows, their table and their picture."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from diffax import checks
from diffax.evaluation import Figure
from diffax.evaluation.text import LogitsFn, kl_divergence, perplexity
from diffax.io.decoder_writer import pad_decoder
from diffax.io.files import write_atomically, write_text
from diffax.models.decoder_lm import DecoderConfig, DecoderLM
from diffax.types import Params
from experiments.modegpt.allocation import layer_parameters
from experiments.modegpt.compression import ALLOCATIONS, Settings, compress, gather
from experiments.modegpt.methods import METHODS
from experiments.modegpt.runner import Runner
from experiments.modegpt.sensitivity import Trials, allocate
from experiments.progress import Counted

DEFAULT = ("modegpt", "modegpt:uniform", "slicegpt", "svd_llm", "svd", "magnitude", "random")
RATIOS = (0.1, 0.2, 0.3, 0.4)


class Row(NamedTuple):
    """A method at a ratio: what it removed of the layers' parameters, and what that cost."""

    method: str
    ratio: float
    removed: float
    perplexity: float
    kl: float
    agreement: float
    seconds: float


class Logits:
    """Logits of decoders, through one compiled program for all that pad to the same shapes."""

    def __init__(self, config: DecoderConfig) -> None:
        self.whole, self._apply = config, jax.jit(DecoderLM(config).apply)

    def __call__(self, config: DecoderConfig, params: Params) -> LogitsFn:
        if config.layers[0].stream:  # nothing to pad these to
            apply = jax.jit(DecoderLM(config).apply)
        else:
            apply, params = self._apply, pad_decoder(config, params, self.whole)
        params = jax.device_put(params)
        return lambda tokens: apply({"params": params}, tokens)


def table(
    runner: Runner,
    calibration: Int[np.ndarray, "n t"],
    held_out: Int[np.ndarray, "m t"],
    names: Sequence[str],
    ratios: Sequence[float],
    seed: int = 0,
) -> list[Row]:
    """A row for the model as it is ("dense"), then one for each method and ratio."""
    files, logits = runner.files, Logits(runner.config)
    dense = logits(files.config, files.params())
    walk = Walk(runner, calibration, {name: settings_of(name, seed) for name in names})
    rows = [Row("dense", 0.0, 0.0, perplexity(dense, held_out).value, 0.0, 1.0, 0.0)]
    show = Counted("models")
    for name in names:
        for ratio in ratios:
            rows.append(_row(walk, name, ratio, logits, dense, held_out))
            show(len(rows) - 1, len(names) * len(ratios))
    return rows


class Walk:
    """One walk through a decoder on calibration text, after which every method and ratio that was asked for
    is ready to be made."""

    def __init__(
        self, runner: Runner, calibration: Int[np.ndarray, "n t"], asked: Mapping[str, Settings]
    ) -> None:
        self.files, self._asked = runner.files, asked
        self._costs: dict[str, list[np.ndarray]] = {}
        needs = tuple(sorted({need for each in asked.values() for need in METHODS[each.method].needs}))
        trials = Trials(runner, calibration)

        def visit(number: int, params: Params, moments: Mapping[str, Any]) -> None:
            for name, each in asked.items():
                if each.allocation == "sensitivity":
                    self._costs.setdefault(name, []).append(trials.measure(number, params, moments, each))

        self._gathered = gather(runner, calibration, needs, visit)

    def make(self, name: str, ratio: float) -> tuple[DecoderConfig, dict[str, Any]]:
        """The smaller decoder."""
        known = None
        if name in self._costs:
            known = allocate(self.files.config, np.stack(self._costs[name]), ratio)
        return compress(self.files, self._gathered, self._asked[name]._replace(ratio=ratio), known)


def _row(
    walk: Walk, name: str, ratio: float, logits: Logits, dense: LogitsFn, held_out: Int[np.ndarray, "m t"]
) -> Row:
    begun = time.monotonic()
    config, params = walk.make(name, ratio)
    seconds = time.monotonic() - begun
    found = logits(config, params)
    apart = kl_divergence(dense, found, held_out)
    before, after = (layer_parameters(c, c.layers) for c in (walk.files.config, config))
    figures = (1 - after / before, perplexity(found, held_out).value, apart.nats, apart.agreement, seconds)
    return Row(name, ratio, *figures)


def settings_of(name: str, seed: int) -> Settings:
    """Of "METHOD" or "METHOD:ALLOCATION"; baselines share out equally unless told otherwise."""
    method, _, allocation = name.partition(":")
    checks.require_one_of("--methods", method, METHODS)
    allocation = allocation or ("sensitivity" if method == "modegpt" else "uniform")
    checks.require_one_of(f"--methods: {method}", allocation, ALLOCATIONS)
    fits = allocation != "sensitivity" or METHODS[method].parts
    checks.require(fits, "--methods", name, f"{method}:uniform; its layers have no parts to share out over")
    found = Settings(method, allocation=allocation)
    return found._replace(options=found.options._replace(seed=seed))


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """``table.csv`` and ``ratios.png``."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows(rows)
    write_text(folder / "table.csv", text.getvalue())
    plot(folder / "ratios.png", rows)


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Perplexity and distance over what was removed, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name in dict.fromkeys(row.method for row in rows[1:]):
        some = [row for row in rows[1:] if row.method == name]
        x = [100 * row.removed for row in some]
        axes[0].plot(x, [row.perplexity for row in some], "o-", label=name, markersize=4)
        axes[1].plot(x, [row.kl for row in some], "o-", label=name, markersize=4)
    axes[0].axhline(rows[0].perplexity, color="black", linewidth=0.8, linestyle=":", label="dense")
    axes[0].set(yscale="log", ylabel="perplexity", xlabel="% of the layers' parameters removed")
    axes[1].set(ylabel="KL to the dense model, nats", xlabel="% of the layers' parameters removed")
    axes[0].legend(fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    pyplot.close(figure)


def as_figures(rows: Sequence[Row], **about: Any) -> list[Figure]:
    """Of ``result.json``."""
    return [
        Figure(f"{row.method}/{row.ratio:g}/{name}", float(getattr(row, name)), **about)
        for row in rows
        for name in ("removed", "perplexity", "kl", "agreement")
    ]
