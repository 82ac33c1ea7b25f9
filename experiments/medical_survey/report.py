"""One page on one run: train, sample in all three frameworks, measure, and look.

    python -m experiments.medical_survey.report --workdir=runs/demo

Writes ``report.html`` (pictures inline) and PNGs into the workdir. A second call resumes a broken run.
"""

import base64
import html
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from diffax.evaluation import nearest
from diffax.io import read_metrics, save_png, tile, write_atomically, write_text
from experiments import build, main, workdir
from experiments.medical_survey import evaluation, experiment, method

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/medical_survey/digits.py:demo", "as for experiments.main"
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "folder of the run and of the report")

_STYLE = """body{font-family:system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;line-height:1.45}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.25rem .7rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
tr.floor{background:#f3f3f3}img{max-width:100%;image-rendering:pixelated}figure{margin:1.2rem 0}
.sheets{display:flex;flex-wrap:wrap;gap:1rem}.sheets figure{flex:1 1 16rem;margin:0}figcaption{color:#444}"""


def make_report(config: ConfigDict, folder: str) -> Path:
    """Train where needed, evaluate, and write the page; returns its path."""
    start = time.monotonic()
    path = Path(folder)
    workdir.train(config, folder)
    parts, state = workdir.load(config, path)
    found = parts.evaluate(state, path)
    workdir.write_figures(config, path, state, found)
    pictures = draw_pictures(config, path, experiment.averaged(state, config.sample.ema), found["rows"])
    minutes = (time.monotonic() - start) / 60
    page = render(config, found, pictures, minutes)
    write_text(path / "report.html", page)
    return path / "report.html"


def draw_pictures(
    config: ConfigDict, path: Path, params: Any, rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[Path, str]]]:
    """Every picture of the page as PNG, with its caption, by section."""
    real = evaluation.data.stack_items(build.open_source(config.data, "test"))
    save_sheet(path / "real.png", real["image"][method.by_class(real["label"])])
    sheets = [(path / "real.png", "Held-out scans, a column a class")]
    best = best_of_each_framework(rows)
    for row in best:
        sheets.append((path / f"samples-{row['name']}.png", f"{row['framework']}: {row['solver']}"))
    trajectories = []
    for row in best:
        picture = path / f"trajectory-{row['name']}.png"
        draw_trajectory(config, params, row["name"], picture)
        trajectories.append((picture, f"{row['framework']}: from noise (left) to a sample, {row['solver']}"))
    draw_loss(path)
    draw_neighbours(config, path, best[0]["name"])
    return {
        "sheets": sheets,
        "trajectories": trajectories,
        "loss": [(path / "loss.png", "Training loss, mean of each 50 steps")],
        "neighbours": [
            (path / "neighbours.png", "Samples (upper rows) above their nearest training scan (lower rows)")
        ],
    }


def best_of_each_framework(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The row with the smallest Fréchet distance of each framework, in the order of the table."""
    frameworks = list(dict.fromkeys(row["framework"] for row in rows))
    return [min((r for r in rows if r["framework"] == f), key=lambda r: r["frechet"]) for f in frameworks]


def save_sheet(path: Path, images: np.ndarray) -> None:
    """Images ten to a row, enlarged to be looked at."""
    save_png(path, tile(np.clip(images, -1, 1), columns=10, zoom=max(1, 40 // images.shape[1])))


def draw_trajectory(config: ConfigDict, params: Any, name: str, path: Path) -> None:
    """Six samples at ten moments of a solver's path, each moment in units of its own spread."""
    import jax

    solver = method.make_solver(config.solvers[name])
    model = build.make_model(config.model, config.data.classes)
    shape = tuple(build.open_source(config.data, "train").spec.shapes["image"])
    generate = method.make_generate(config, model, shape, solver)
    labels = np.arange(6) % config.data.classes
    keys = jax.random.split(jax.random.key(config.seed + 4), len(labels))
    steps = np.asarray(generate(params, keys, labels, return_path=True).path)
    moments = np.linspace(0, steps.shape[1] - 1, 10).round().astype(int)
    frames = steps[:, moments]
    scale = np.maximum(1.0, frames.std(axis=(2, 3, 4), keepdims=True) / 0.6)
    sheet = (frames / scale).reshape(-1, *shape)
    save_sheet(path, sheet)


def draw_loss(path: Path) -> None:
    """The loss curve from the run's metrics."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(path / "metrics.jsonl")
    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="#1f5fa8")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    write_atomically(path / "loss.png", lambda temporary: figure.savefig(temporary, dpi=140))
    pyplot.close(figure)


def draw_neighbours(config: ConfigDict, path: Path, name: str) -> None:
    """Twenty samples, each above the training image nearest to it."""
    samples = np.load(path / f"samples-{name}.npz")["image"][:20]
    train = evaluation.data.stack_items(build.open_source(config.data, "train"))["image"]
    flat = [images.reshape(len(images), -1) for images in (samples, train)]
    _, index = nearest(*flat)
    pairs = [rows for half in (slice(0, 10), slice(10, 20)) for rows in (samples[half], train[index[half]])]
    save_sheet(path / "neighbours.png", np.concatenate(pairs))


def render(config: ConfigDict, found: Mapping[str, Any], pictures: Mapping[str, Any], minutes: float) -> str:
    """The page."""
    figures = {figure.name: figure for figure in found["figures"]}
    floor = figures["floor/frechet"]
    facts = (
        f"Fréchet distance between features of {floor.n_fake} samples and {floor.n_real} held-out scans "
        f"(split {floor.split}); extractor {floor.extractor['name']} {floor.extractor['digest'][:12]}, which "
        f"reads {figures['classifier_held_out_accuracy'].value:.1%} of the held-out scans; seed {floor.seed}; "
        f"{json.dumps(workdir.environment())}. The whole report took {minutes:.1f} minutes."
    )
    bits = figures.get("bits_per_dim")
    likelihood = (
        f"<p>Held-out likelihood: {bits.value:.2f} bits per pixel (n = {bits.n_real}).</p>" if bits else ""
    )
    trained = f"One network, trained for {config.train.num_steps} steps of {config.train.batch_size} scans, serves all rows."
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>diffax: three frameworks</title>
<style>{_STYLE}</style>
<h1>Three diffusion frameworks on 8x8 digits</h1>
<p>{trained} {html.escape(facts)}</p>
{table(found["rows"], floor.value)}
<p>Class accuracy: how often the classifier reads the class that was asked for. Copy ratio: median distance
of samples to their nearest training scan over that of held-out scans; well below 1 would speak of copies.</p>
{likelihood}
<h2>Samples</h2><div class="sheets">{"".join(map(figure_tag, pictures["sheets"]))}</div>
<h2>Denoising</h2>{"".join(map(figure_tag, pictures["trajectories"]))}
<h2>Training</h2>{"".join(map(figure_tag, pictures["loss"]))}
<h2>Are they copies?</h2>{"".join(map(figure_tag, pictures["neighbours"]))}
</html>
"""


def table(rows: Sequence[Mapping[str, Any]], floor: float) -> str:
    """Framework x sampler x calls x distance x seconds, with the floor on top."""
    head = "".join(
        f"<th>{name}</th>"
        for name in ("framework", "sampler", "calls", "Fréchet", "x floor", "class accuracy", "coverage",
                     "copy ratio", "seconds")
    )  # fmt: skip
    body = [
        f'<tr class="floor"><td>real</td><td>training scans</td><td></td><td>{floor:.2f}</td><td>1.00</td>'
        "<td></td><td></td><td></td><td></td></tr>"
    ]
    for row in rows:
        cells = (
            row["framework"], html.escape(row["solver"]), row["nfe"], f"{row['frechet']:.2f}",
            f"{row['frechet'] / floor:.2f}", f"{row['class_accuracy']:.3f}", f"{row['coverage']:.3f}",
            f"{row['copy_median_ratio']:.2f}", f"{row['seconds']:.1f}",
        )  # fmt: skip
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def figure_tag(picture: tuple[Path, str]) -> str:
    """A picture inline, so that the page is one file."""
    path, caption = picture
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def program(argv: Sequence[str]) -> None:
    """Make the report that the flags name."""
    workdir.set_compilation_cache(main.compilation_cache())
    print(f"wrote {make_report(_CONFIG.value, _WORKDIR.value)}")


if __name__ == "__main__":
    sys.exit(main.run(program))
