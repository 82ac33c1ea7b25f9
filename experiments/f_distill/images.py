"""Images: a teacher from ``medical_survey``; quality of the student beside it, its start and real images."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.evaluation import classifier_modes
from diffax.io import in_batches, samples, write_samples
from diffax.models import TENSOR_RULES
from diffax.training import TrainState, distributed
from diffax.types import Params
from experiments import build
from experiments.f_distill import pictures, teachers
from experiments.f_distill.method import Method
from experiments.f_distill.networks import guided, make_look
from experiments.f_distill.sampling import Generate, make_generate, make_teacher_generate
from experiments.f_distill.target import Target, against
from experiments.figures import as_figures, as_rows, fastest
from experiments.medical_survey.experiment import init_params
from experiments.medical_survey.method import UNCONDITIONAL, make_solver
from experiments.pictures import sheet
from experiments.progress import Counted
from experiments.reference import HELD_OUT, Reference, make_reference, quality


class Subject(NamedTuple):
    """What evaluation needs to know: the run, its teacher's run, the shape of an image, whether by class."""

    config: ConfigDict
    teacher: ConfigDict
    shape: tuple[int, ...]
    labelled: bool


def make_target(config: ConfigDict) -> Target:
    """The teacher's network and process, and the images of ``config.data``."""
    teacher = teachers.find(config)
    source = build.open_source(config.data, "train")
    model, process = teachers.make_model(teacher), build.make_process(teacher.process)
    look = make_look(model, teachers.make_bind(teacher, process))
    shape, labelled = tuple(source.spec.shapes["image"]), teacher.data.classes > 0
    allowed = f"data of {teacher.data.classes} classes, as the teacher knows"
    fits = not labelled or source.spec.num_classes == teacher.data.classes
    checks.require(fits, "config.data.source", config.data.source, allowed)
    checks.require_one_of("config.eval.teacher", config.eval.teacher, config.solvers)
    subject = Subject(config, teacher, shape, labelled)
    wide = config.copy_and_resolve_references()
    wide.train.batch_size *= config.critic_steps  # a batch for every update of the critics

    def start(key: Key[Array, ""]) -> Params:
        return init_params(model, key, shape)

    return Target(
        shape=shape,
        field="image",
        sigma_data=teacher.sigma_data or 0.5,
        process=process,
        labelled=labelled,
        teacher=look,
        score=look,
        start=start,
        begin=lambda workdir: teachers.begin(config, teacher, workdir, start),
        data=lambda index, count: build.make_pipeline(wide, source, index, count),
        evaluate=lambda method, state, workdir: evaluate(subject, method, state, workdir),
        draw=lambda method, state, workdir: draw(subject, method, state, workdir),
        rules=TENSOR_RULES,
    )


def evaluate(subject: Subject, method: Method, state: TrainState, workdir: Path) -> dict[str, Any]:
    """Figures of the student, of its start, of the teacher with each solver, and of real images."""
    config = subject.config
    reference = make_reference(
        config.data, workdir, labelled=True, seed=config.seed, steps=config.eval.classifier_steps,
        inception=config.eval.inception, limit=config.eval.real_n or None,
    )  # fmt: skip
    n, key = config.eval.n, jax.random.key(config.seed + 2)
    labels = np.resize(reference.held_out.get("label", np.full(1, UNCONDITIONAL)), n)
    drawn: dict[str, np.ndarray] = {}
    found: dict[str, dict[str, float]] = {}
    for name, (generate, params, calls) in generators(subject, method, state).items():
        drawn[name], cost = timed(config, generate, params, key, labels)
        found[name] = measure(config, drawn[name], labels, reference) | {"nfe": calls, **cost}
    found[""] |= against(found, config.eval.teacher, config.eval.teacher)
    real = reference.train["image"][:n]
    found["real"] = measure(config, real, reference.train.get("label", labels)[:n], reference)
    samples.write_npz(workdir / "samples.npz", image=drawn[""], label=labels)
    draw_pictures(config, drawn, found, labels, workdir)
    about = {"split": HELD_OUT, "extractor": reference.extractor.label, "seed": config.seed}
    figures = as_figures(found, n_fake=n, n_real=len(reference.held_out_features), **about)
    rows = as_rows(found, config.divergence)
    return {"figures": figures, "rows": rows, "notes": {"divergence": config.divergence}}


def generators(
    subject: Subject, method: Method, state: TrainState
) -> dict[str, tuple[Generate, Params, int]]:
    """Everything that is compared: how it draws, its parameters, its calls of the network a sample."""
    config, teacher = subject.config, subject.teacher
    one, calls = make_generate(method, subject.shape, subject.labelled), len(method.grid) - 1
    params = state.frozen["teacher"]
    found: dict[str, tuple[Generate, Params, int]] = {
        "": (one, state.nets["student"].averaged(config.sample.ema), calls),
        "init": (one, params, calls),
    }
    model = teachers.make_model(teacher)
    for name, settings in config.solvers.items():
        solver = make_solver(settings)
        look = make_look(model, teachers.make_bind(teacher, solver.process))
        many = guided(look, config.guidance, subject.labelled)
        generate = make_teacher_generate(
            lambda p, many=many: lambda x, t, cond: many(p, x, t, cond)[0],
            solver.process, solver.sampler, solver.grid, subject.shape, subject.labelled,
        )  # fmt: skip
        steps = int(solver.sampler.nfe(solver.process, solver.grid, ()))
        found[name] = (generate, params, steps * (1 if config.guidance == 1.0 else 2))
    return found


def timed(
    config: ConfigDict, generate: Generate, params: Params, key: Key[Array, ""], labels: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Samples in [-1, 1] for all labels, and the seconds for a hundred; compilation is outside the clock."""
    size = config.eval.batch_size
    images = np.concatenate(list(in_batches(generate, params, key, labels, size)))
    arguments = samples.arguments(params, key, labels, 0, size)
    seconds = fastest(partial(generate, *arguments))
    return np.clip(images, -1, 1), {"seconds_per_100": 100 * seconds / len(arguments[1])}


def measure(
    config: ConfigDict, images: np.ndarray, labels: np.ndarray, reference: Reference
) -> dict[str, float]:
    """Quality, and the classes reached: by samples that the classifier is sure of, and as asked for."""
    found = quality(images, reference)
    if reference.classifier is None:
        return found
    p = reference.classifier.probabilities(images)
    shares = np.bincount(reference.held_out["label"], minlength=p.shape[-1])
    sure, everything = (classifier_modes(p, shares, gate=gate) for gate in (config.eval.gate, 1e-6))
    asked = labels >= 0
    right = float(np.mean(p.argmax(axis=1)[asked] == labels[asked])) if asked.any() else float("nan")
    return found | {
        "modes": sure.modes,
        "high_quality": sure.high_quality,
        "tv": everything.total_variation,
        "class_accuracy": right,
    }


def draw_pictures(
    config: ConfigDict,
    drawn: dict[str, np.ndarray],
    found: dict[str, dict[str, float]],
    labels: np.ndarray,
    workdir: Path,
) -> None:
    """Sheets by class, pairs from the same noise, weights, and quality against network calls."""
    order = np.argsort(labels[:100], kind="stable")
    for name, title in (("", "samples-sheet"), (config.eval.teacher, "teacher"), ("init", "init")):
        sheet(workdir / f"{title}.png", drawn[name][:100][order])
    pairs = [drawn[name][: min(40, len(labels) // 10 * 10)] for name in (config.eval.teacher, "")]
    pictures.draw_pairs(workdir / "teacher-student.png", *pairs)
    pictures.draw_weights(workdir / "weights.png", config.divergence)
    pictures.draw_pareto(workdir / "pareto.png", found, config.eval.teacher, "frechet")


def draw(subject: Subject, method: Method, state: TrainState, workdir: Path) -> None:
    """``config.sample.n`` samples, class after class, as ``.npz`` files (and PNGs where asked for)."""
    config, classes = subject.config, subject.teacher.data.classes
    n = config.sample.n
    labels = np.arange(n) % classes if classes else np.full(n, UNCONDITIONAL)
    files = write_samples(
        make_generate(method, subject.shape, subject.labelled),
        state.nets["student"].averaged(config.sample.ema),
        jax.random.key(config.seed + 1),
        labels,
        workdir,
        "samples",
        batch_size=config.sample.batch_size,
        per_file=config.sample.per_file,
        identity={"step": int(state.step), "ema": config.sample.ema},
        png=config.sample.png,
        progress=Counted("samples"),
    )
    if distributed.is_main():
        sheet(workdir / "samples-sheet.png", np.load(files[0])["image"][:100])
