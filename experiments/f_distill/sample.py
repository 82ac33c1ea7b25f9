"""Samples of a trained student: one network call each (or as many as it was trained for).

    python -m experiments.f_distill.sample --workdir=runs/digits1 --n=64 --out=sheet.png
    python -m experiments.f_distill.sample --workdir=runs/digits1 --n=10000 --out=samples.npz

``--out`` is a PNG (a sheet), a ``.npz`` (``image`` float32 in [-1, 1] and ``label``, or ``x`` for points), or
a folder, which gets every image as a PNG and the sheet. ``--labels=3,5`` asks for classes, in turn.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from diffax import checks
from diffax.io import in_batches, samples, save_png
from experiments import main, modes
from experiments.f_distill.experiment import rebuild
from experiments.f_distill.sampling import make_generate
from experiments.f_distill.target import Target
from experiments.medical_survey.method import UNCONDITIONAL
from experiments.pictures import scatter, sheet
from experiments.progress import say
from experiments.workdir import read_config


def choose_labels(asked: Sequence[str], classes: int, n: int) -> np.ndarray:
    """The classes asked for, or all, in turn; ValueError for one that does not exist."""
    if not classes:
        checks.require(not asked, "--labels", list(asked), "none, for a student without classes")
        return np.full(n, UNCONDITIONAL)
    fits = all(word.isdigit() and int(word) < classes for word in asked)
    checks.require(fits, "--labels", ",".join(asked), f"classes 0 .. {classes - 1}, separated by commas")
    return np.resize([int(word) for word in asked] or np.arange(classes), n)


def draw(config: ConfigDict, workdir: Path, labels: np.ndarray, seed: int) -> tuple[np.ndarray, Target, int]:
    """Samples, what they are of, and the network calls that each took."""
    target, method = rebuild(config)
    _, state = modes.load(config, workdir)
    params = state.nets["student"].averaged(config.sample.ema)
    generate = make_generate(method, target.shape, target.labelled)
    size = min(len(labels), config.sample.batch_size)
    drawn = list(in_batches(generate, params, jax.random.key(seed), labels, size))
    return np.concatenate(drawn), target, len(method.grid) - 1


def write(out: Path, x: np.ndarray, labels: np.ndarray, field: str) -> None:
    """A sheet, an archive, or a folder of pictures."""
    points = field == "x"
    if out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        samples.write_npz(out, **({"x": x} if points else {"image": np.clip(x, -1, 1), "label": labels}))
        return
    picture = out if out.suffix.lower() == ".png" else out / "sheet.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    if points:
        scatter(picture, [[x]], [[f"{len(x)} samples"]])
        return
    sheet(picture, x)
    for index, image in enumerate(x if picture != out else ()):
        save_png(out / f"{index:06d}.png", np.clip(image, -1, 1))


def program(argv: Sequence[str]) -> None:
    """Draw what the flags ask for."""
    values = flags.FLAGS
    for name in ("workdir", "out"):
        checks.require(bool(values[name].value), f"--{name}", values[name].value, "a path")
    n, asked, out = values["n"].value, values["labels"].value, Path(values["out"].value)
    checks.require(n >= 1, "--n", n, "at least 1")
    main.start_jax()
    workdir = Path(values["workdir"].value)
    config = read_config(workdir)
    kind = config.experiment == "f_distill" and config.get("objective", "pipeline") == "pipeline"
    checks.require(kind, "--workdir", str(workdir), "a run of f_distill with a student")
    classes = classes_of(config)
    begun = time.monotonic()
    labels = choose_labels(asked, classes, n)
    x, target, calls = draw(config, workdir, labels, values["seed"].value)
    write(out, x, labels, target.field)
    seconds = time.monotonic() - begun
    say(f"wrote {out}: {n} samples, network calls a sample: {calls}, {seconds:.1f} s in all", sys.stdout)


def classes_of(config: ConfigDict) -> int:
    """Classes that the student knows; 0 for none."""
    from experiments.f_distill import teachers

    return 0 if config.data.source == "ring" else int(teachers.find(config).data.classes)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "folder of a trained run of this experiment")
    flags.DEFINE_string("out", "", "a PNG, a .npz, or a folder")
    flags.DEFINE_integer("n", 64, "samples to draw")
    flags.DEFINE_list("labels", [], "classes, in turn; all by default")
    flags.DEFINE_integer("seed", 0, "of the noise")
    sys.exit(main.run(program))
