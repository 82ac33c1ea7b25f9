"""One page on one run: train, sample in all three frameworks, measure, and look.

    python -m experiments.medical_survey.report --workdir=runs/demo

Writes ``report.html`` (pictures inline), PNGs and ``result.json`` into the workdir. A second call resumes a
broken run.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from diffax.io import write_text
from experiments import devices, main, modes
from experiments.medical_survey import page, pictures


def make_report(config: ConfigDict, folder: str) -> Path | None:
    """Train where needed, evaluate, and write the page; its path, or None where SIGTERM came first."""
    start = time.monotonic()
    path = Path(folder)
    if not modes.train(config, folder):
        return None
    parts, state = modes.load(config, path)
    found = parts.evaluate(state, path)
    modes.write_figures(config, path, state, found)
    params = state.nets["model"].averaged(config.sample.ema)
    sections = pictures.draw_all(config, path, params, found["rows"])
    figures = {figure.name: figure for figure in found["figures"]}
    facts = describe(config, figures, (time.monotonic() - start) / 60)
    floor = figures["floor/frechet"]
    text = page.render("Three diffusion frameworks on real digits", facts, found["rows"], floor, sections)
    write_text(path / "report.html", text)
    return path / "report.html"


def describe(config: ConfigDict, figures: Mapping[str, Any], minutes: float) -> str:
    """What the numbers were measured on."""
    floor, accuracy = figures["floor/frechet"], figures["classifier_held_out_accuracy"]
    everything = figures["floor_all_training/frechet"]
    where = devices.environment()
    extractor = f"{floor.extractor['name']} {floor.extractor['digest'][:12]}"
    sentences = (
        f"One network, trained for {config.train.num_steps} steps of {config.train.batch_size} images,",
        f"serves every row. Fréchet distance of {floor.n_fake} samples to {floor.n_real} held-out images",
        f"(split {floor.split}); features of {extractor}, which reads {accuracy.value:.1%} of the held-out",
        "images; the first row is the same for as many training images",
        f"(for all {everything.n_fake} of them: {everything.value:.2f}). Seed {floor.seed};",
        f"{where['device']}, jax {where['jax']}; {minutes:.1f} minutes in all.",
    )
    bits = figures.get("bits_per_dim")
    if bits:
        sentences += (f"Held-out likelihood: {bits.value:.2f} bits per pixel (n = {bits.n_real}).",)
    return " ".join(sentences)


def program(argv: Sequence[str]) -> None:
    """Make the report that the flags name."""
    main.start_jax()
    report = make_report(flags.FLAGS["config"].value, flags.FLAGS["workdir"].value)
    if report is not None:
        print(f"wrote {report}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file(
        "config", "configs/medical_survey/digits.py:demo", "as for experiments.main"
    )
    flags.DEFINE_string("workdir", "runs/demo", "folder of the run and of the report")
    sys.exit(main.run(program))
