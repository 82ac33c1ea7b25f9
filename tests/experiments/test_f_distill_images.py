"""Distillation of digits by the programs: teacher and student in one command, figures, pictures, samples."""

import importlib
import json
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import digests, launch, launch_module, start
from PIL import Image

from diffax.io import load_sampler, write_json
from diffax.processes import noise_to_signal
from experiments.f_distill import settings
from experiments.f_distill.experiment import rebuild
from experiments.f_distill.sampling import make_generate, start_noise
from experiments.registry import make_experiment
from experiments.workdir import read_config

CONFIG = "configs/f_distill/digits.py:smoke"
RING = "configs/f_distill/ring8.py:smoke"
KEYS = {"frechet", "precision", "recall", "coverage", "nfe", "teacher_frechet", "teacher_nfe", "speedup"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("f_distill") / "run"
    for mode in ("train", "eval"):
        done = launch(workdir, config=CONFIG, mode=mode)
        assert done.returncode == 0, done.stderr
    return workdir


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@pytest.mark.slow
def test_one_command_trains_the_teacher_and_the_student(run):
    assert read_config(run / "teacher").experiment == "medical_survey"
    assert set(digests(run / "teacher")) == {10, 20}
    assert set(digests(run)) == {10, 20}


@pytest.mark.slow
def test_the_figures(run):
    result = json.loads((run / "result.json").read_text())
    assert result["notes"]["divergence"] == "jensen_shannon"
    figures = {figure["name"]: figure for figure in result["figures"]}
    values = {name: figure["value"] for name, figure in figures.items()}
    assert KEYS | {"modes", "init/frechet", "heun-18/recall", "real/frechet"} <= set(values)
    assert (values["nfe"], values["teacher_nfe"]) == (1, 35)
    assert values["teacher_frechet"] == values["heun_churn-18/frechet"]
    assert values["real/frechet"] < 0.1 * values["init/frechet"]
    seconds = values["heun_churn-18/seconds_per_100"] / values["seconds_per_100"]
    assert values["speedup"] == pytest.approx(seconds)
    assert figures["frechet"]["n_fake"] == 80
    assert figures["frechet"]["split"] == "test"


@pytest.mark.slow
def test_the_pictures(run):
    for name in ("samples-sheet", "teacher", "teacher-student", "weights", "pareto"):
        assert len(np.unique(picture(run / f"{name}.png"))) > 10, name


@pytest.mark.slow
def test_a_broken_run_ends_in_the_same_bits(run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "20")
    done = launch(again, config=CONFIG)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint at step 10" in done.stderr
    assert digests(again)[20] == digests(run)[20]


@pytest.mark.slow
def test_sigterm_while_the_teacher_trains_leaves_the_student_for_the_next_call(tmp_path):
    process = start(tmp_path / "w", "--config.teacher_run.train.num_steps=100000", config=CONFIG)
    deadline = time.monotonic() + 200
    while not digests(tmp_path / "w" / "teacher") and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 0, errors
    assert max(digests(tmp_path / "w" / "teacher")) < 100_000
    assert "the student" not in errors
    assert not digests(tmp_path / "w")


@pytest.mark.slow
def test_another_runs_teacher_is_taken_as_it_is(run, tmp_path):
    done = launch(tmp_path / "w", f"--config.teacher={run / 'teacher'}", config=CONFIG)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "w" / "teacher").exists()
    assert read_config(tmp_path / "w").teacher == str(run / "teacher")
    # the same teacher, seed and data: the same student
    assert digests(tmp_path / "w")[20] == digests(run)[20]


@pytest.mark.slow
def test_a_teacher_of_other_images_is_refused(run, tmp_path):
    np.savez(tmp_path / "data.npz", image=np.zeros((40, 8, 8, 3), np.uint8), label=np.arange(40) % 10)
    flags = (f"--config.teacher={run / 'teacher'}", f"--config.data.source={tmp_path / 'data.npz'}")
    done = launch(tmp_path / "w", *flags, "--config.data.holdout=0.1", config=CONFIG)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: config.data.source")
    assert not digests(tmp_path / "w")


@pytest.mark.slow
def test_samples(run, tmp_path):
    flags = {"workdir": run, "n": 6, "labels": "3,5", "out": tmp_path / "a" / "s.npz"}
    done = launch_module("experiments.f_distill.sample", **flags)
    assert done.returncode == 0, done.stderr
    assert "network calls a sample: 1" in done.stdout
    with np.load(tmp_path / "a" / "s.npz") as arrays:
        assert arrays["image"].shape == (6, 8, 8, 1)
        np.testing.assert_array_equal(arrays["label"], [3, 5, 3, 5, 3, 5])
    done = launch_module("experiments.f_distill.sample", workdir=run, n=3, out=tmp_path / "b")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png", "sheet.png"]


@pytest.mark.slow
def test_the_exported_student_is_the_student(run):
    done = launch(run, config=CONFIG, mode="export")
    assert done.returncode == 0, done.stderr
    sampler = load_sampler(run / "export" / "sampler.jaxexport")
    assert sampler.metadata["about"]["nfe"] == 1
    images = sampler.generate(np.arange(4), np.asarray([1, 1, 2, 2]))
    assert images.shape == (4, 8, 8, 1)
    assert np.isfinite(images).all()


@pytest.mark.parametrize(
    ("module", "flags", "said"),
    [
        (
            "main",
            {"config": CONFIG, "config.teacher": "no/such", "workdir": "w"},
            "config.teacher",
        ),
        ("f_distill.sample", {"workdir": "RUN", "out": "x.png", "labels": "11"}, "--labels: got '11'"),
        ("f_distill.sample", {"workdir": "RUN", "out": "x.png", "n": 0}, "--n: got 0"),
        ("f_distill.sample", {"workdir": "RUN/teacher", "out": "x.png"}, "--workdir"),
        ("f_distill.compare", {"workdirs": "RUN/teacher", "out": "x.png"}, "runs of f_distill"),
    ],
)
@pytest.mark.slow
def test_mistakes_end_with_one_line(run, tmp_path, module, flags, said):
    flags = {name: str(value).replace("RUN", str(run)) for name, value in flags.items()}
    for name in ("out", "workdir"):
        if name in flags and "/" not in flags[name]:
            flags[name] = str(tmp_path / flags[name])
    done = launch_module(f"experiments.{module}", **flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_runs_side_by_side(run, tmp_path):
    done = launch_module("experiments.f_distill.compare", workdirs=run, out=tmp_path / "pareto.png")
    assert done.returncode == 0, done.stderr
    assert "| run | " in done.stdout
    assert len(np.unique(picture(tmp_path / "pareto.png"))) > 10


@pytest.mark.slow
def test_the_ring_through_the_programs(tmp_path):
    for mode in ("train", "eval", "sample"):
        done = launch(tmp_path / "w", config=RING, mode=mode)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    values = {figure["name"]: figure["value"] for figure in result["figures"]}
    assert KEYS | {"modes", "tv", "high_quality"} <= set(values)
    assert values["heun-18/high_quality"] > 0.97
    assert values["real/high_quality"] > 0.97
    done = launch_module("experiments.f_distill.compare", workdirs=tmp_path / "w", out=tmp_path / "ring.png")
    assert done.returncode == 0, done.stderr
    assert len(np.unique(picture(tmp_path / "ring.png"))) > 10


@pytest.mark.slow
def test_particles_through_the_launcher(tmp_path):
    config = RING.replace("smoke", "particles")
    for mode in ("train", "eval"):
        done = launch(tmp_path / "w", "--config.train.num_steps=200", config=config, mode=mode)
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "w" / "samples.npz") as arrays:
        assert arrays["x"].shape == (400, 2)


@pytest.mark.parametrize(("name", "variant"), [("digits", "demo"), ("ring8", "demo"), ("ring8", "particles")])
def test_configurations_build(name, variant):
    config = importlib.import_module(f"configs.f_distill.{name}").get_config(variant)
    parts = make_experiment(config)
    jax.eval_shape(parts.init, jax.random.key(0))


@pytest.mark.parametrize(
    "framework",
    [pytest.param(f"{name}_digits", marks=pytest.mark.slow) for name in ("ddpm", "sde", "ncsn")],
)
def test_teachers_of_every_framework(tmp_path, framework):
    """Other processes, predictions and times than EDM's: the student starts as their estimate."""
    teacher = importlib.import_module(f"configs.medical_survey.{framework}").get_config("smoke")
    write_json(tmp_path / "config.json", teacher.to_dict())
    config = importlib.import_module("configs.f_distill.digits").get_config("smoke")
    config.teacher, config.student_levels, config.noise.high = str(tmp_path), (6.0, 1.0), 6.0
    target, made = rebuild(config)
    levels = noise_to_signal(target.process, made.grid[:-1])
    np.testing.assert_allclose(levels, [6.0, 1.0], rtol=1e-3)
    drawn = noise_to_signal(target.process, made.times(jax.random.key(0), target.process, 500))
    assert 0.002 <= float(drawn.min()) < 0.1
    assert 5 < float(drawn.max()) <= 6.01
    state = jax.jit(make_experiment(config).init)(jax.random.key(0))
    keys, labels = jax.random.split(jax.random.key(1), 3), jnp.zeros(3, jnp.int32)
    one = made._replace(grid=made.grid[jnp.asarray([0, -1])])
    found = make_generate(one, target.shape, True)(state.nets["student"].params, keys, labels)
    x = target.process.sigma(made.grid[0]) * start_noise(keys, target.shape)
    cond = {"label": labels, "unconditional": labels < 0}
    expected, _ = jax.jit(target.teacher)(state.frozen["teacher"], x, jnp.full(3, made.grid[0]), cond)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert float(jnp.std(expected)) > 0


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        pytest.param("mnist", (28, 28, 1), 10, marks=pytest.mark.slow),
        pytest.param("cifar10", (32, 32, 3), 10, marks=pytest.mark.slow),
        pytest.param("imagenet64", (64, 64, 3), 10, marks=pytest.mark.slow),
        pytest.param("sd15", (64, 64, 4), 0, marks=pytest.mark.slow),
    ],
)
def test_published_configurations_are_traced(tmp_path, name, shape, classes):
    """Teacher, student, critics and a whole step of them: shapes only, nothing is computed."""
    images, labels = np.zeros((40, *shape), np.uint8), {"label": np.arange(40) % classes} if classes else {}
    np.savez(tmp_path / "data.npz", image=images, **labels)
    config = importlib.import_module(f"configs.f_distill.{name}").get_config("full")
    config.data.source, config.data.holdout = str(tmp_path / "data.npz"), 0.1
    config.data.size = config.data.channels = 0
    config.data.data_dir = ""
    if not config.teacher_run:
        with pytest.raises(ValueError, match=r"config.teacher: got ''"):
            make_experiment(config)
        write_json(tmp_path / "teacher" / "config.json", settings.teacher_run(**{"data.classes": classes}))
        config.teacher = str(tmp_path / "teacher")
    parts = make_experiment(config)
    state = jax.eval_shape(parts.init, jax.random.key(0))
    rows = config.train.batch_size * config.critic_steps
    batch = {"image": jax.ShapeDtypeStruct((rows, *shape), jnp.float32)}
    if classes:
        batch["label"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
    after, metrics = jax.eval_shape(parts.train_step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["h_std"].shape == ()
    assert len(after.nets["student"].ema) == 3
    heads = after.nets["discriminator"].params
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(heads))
    logits = sum(part.endswith("_out") for part in heads)
    assert logits == (len(config.gan.levels) or 4)  # three levels and the middle
