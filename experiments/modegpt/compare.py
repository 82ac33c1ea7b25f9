"""All methods at several ratios: a table and a picture.

    python -m experiments.modegpt.compare --model=DIR --calibration=FILES --out=DIR

The model and the moments of all its layers are in memory. ``modegpt`` shares the ratio out by sensitivity,
``modegpt:uniform`` equally, ``modegpt:influence`` as published. Perplexities and distances are on text that
nothing was calibrated on; ``table.csv``, ``ratios.png`` and ``result.json`` go to ``--out``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from diffax import checks
from diffax.evaluation import write_result
from experiments import main
from experiments.devices import environment
from experiments.modegpt.compression import open_whole
from experiments.modegpt.runner import Runner
from experiments.modegpt.tables import DEFAULT, RATIOS, as_figures, settings_of, table, write_table
from experiments.modegpt.texts import check_context, read_texts
from experiments.progress import say


def program(argv: Sequence[str]) -> None:
    """Compare what the flags name."""
    values = flags.FLAGS.flag_values_dict()
    for name in ("model", "calibration", "out"):
        checks.require(bool(values[name]), f"--{name}", values[name], "a value")
    out = Path(values["out"])
    checks.require(not (out.exists() and any(out.iterdir())), "--out", str(out), "a new or empty folder")
    ratios = [_ratio(text) for text in values["ratios"]]
    for name in values["methods"]:
        settings_of(name, values["seed"])
    main.start_jax()
    files = open_whole(values["model"])
    context = check_context(files, values["context"])
    count, seed = values["sequences"], values["seed"]
    texts = read_texts(files, values["calibration"], values["text"], context, count, seed)
    rows = table(Runner(files), texts.calibration, texts.held_out, values["methods"], ratios, seed)
    for row in rows:
        say(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v:16}" for k, v in row._asdict().items()))
    out.mkdir(parents=True, exist_ok=True)
    write_table(out, rows)
    about = {"n_real": texts.held_out[:, 1:].size, "split": texts.source, "seed": seed}
    notes = {"model": values["model"], "context": context, "calibration": len(texts.calibration)}
    write_result(out / "result.json", as_figures(rows, **about), {**notes, **environment()})
    say(f"wrote {out / 'table.csv'}, {out / 'ratios.png'}", sys.stdout)


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    checks.require(0 <= ratio < 1, "--ratios", text, "numbers in [0, 1)")
    return ratio


if __name__ == "__main__":
    flags.DEFINE_string("model", "", "folder of a checkpoint")
    flags.DEFINE_list("calibration", [], 'text files to calibrate on, or "self"')
    flags.DEFINE_list("text", [], "text files to measure on; by default a tenth of the other")
    flags.DEFINE_list("methods", list(DEFAULT), "METHOD or METHOD:ALLOCATION")
    flags.DEFINE_list("ratios", [str(ratio) for ratio in RATIOS], "shares of the layers' parameters")
    flags.DEFINE_integer("sequences", 128, "chunks to calibrate on")
    flags.DEFINE_integer("context", 0, "tokens of a chunk; 0: 2048, or the model's positions")
    flags.DEFINE_integer("seed", 0, "of draws")
    flags.DEFINE_string("out", "", "folder for the table and the picture")
    sys.exit(main.run(program))
