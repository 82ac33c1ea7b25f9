"""The few-step GAN on images: figures, pictures, strokes, runs side by side, published configurations."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import launch, launch_module
from PIL import Image

from diffax.io import save_png
from diffax.processes import normal
from diffax.training import count_params
from experiments.ddgan import experiment, stroke

CONFIG = "configs/ddgan/stacked_digits.py:smoke"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ddgan") / "run"
    for mode in ("train", "eval", "sample"):
        done = launch(workdir, config=CONFIG, mode=mode)
        assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.slow
def test_the_figures(run):
    result = json.loads((run / "result.json").read_text())
    figures = {figure["name"]: figure for figure in result["figures"]}
    values = {name: figure["value"] for name, figure in figures.items()}
    keys = {
        "modes",
        "high_quality",
        "kl",
        "tv",
        "nfe",
        "seconds_per_100",
        "n",
        "frechet",
        "precision",
        "recall",
    }
    assert keys | {"modes_raw", "kl_raw", "real/modes", "noise/kl_raw"} <= set(values)
    assert values["nfe"] == 4
    assert values["n"] == 60
    assert figures["modes"]["n_fake"] == 60
    assert figures["frechet"]["n_fake"] == 180  # channels
    assert figures["frechet"]["n_real"] == 200
    # noise has no mode that the classifier is sure of, real images of another split do
    assert values["noise/modes"] <= 1
    assert values["real/high_quality"] > values["noise/high_quality"] + 0.1
    assert values["real/frechet"] < 0.2 * values["noise/frechet"]


@pytest.mark.slow
def test_the_pictures_and_arrays(run):
    with np.load(run / "samples.npz") as arrays:
        assert arrays["image"].shape == (10, 8, 8, 3)  # of --mode=sample, which came last
    for name in ("samples-sheet.png", "samples-path.png", "samples-channels.png", "real.png"):
        with Image.open(run / name) as picture:
            assert len(set(picture.convert("L").getdata())) > 10, name


@pytest.mark.slow
def test_strokes(run, tmp_path):
    drawing = np.full((20, 20, 3), -1.0)
    drawing[4:16, 9:12] = 1.0
    save_png(tmp_path / "drawing.png", drawing)
    for out, made in ((tmp_path / "a" / "one.png", "one.png"), (tmp_path / "many", "sheet.png")):
        flags = {"image": tmp_path / "drawing.png", "workdir": run, "out": out, "n": 3, "steps": 1}
        done = launch_module("experiments.ddgan.stroke", **flags)
        assert done.returncode == 0, done.stderr
        assert (out if made == "one.png" else out / made).stat().st_size > 100
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [
        "000.png",
        "001.png",
        "002.png",
        "sheet.png",
    ]
    with Image.open(tmp_path / "many" / "002.png") as picture:
        assert picture.size == (8, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 9}, "1 .. 4"),
        ({"image": "none.png"}, "image"),
        ({"workdir": "none"}, "workdir"),
        ({"n": 0}, "n"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, changes, message):
    save_png(tmp_path / "drawing.png", np.zeros((8, 8, 3)))
    flags = {"image": tmp_path / "drawing.png", "workdir": run, "out": tmp_path / "o.png"} | changes
    done = launch_module("experiments.ddgan.stroke", **flags)
    assert done.returncode == 2
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "o.png").exists()


def test_a_stroke_keeps_what_the_noise_leaves():
    """With the posterior mean of white data as generator, in closed form."""
    made = experiment.rebuild(small())[0]._replace(latent=0)
    made = made._replace(generate=lambda p, x, t, cond: made.process.alpha(t)[:, None, None, None] * x)
    drawing = jnp.sign(normal(jax.random.split(jax.random.key(3), 1), (8, 8, 3))[0])  # mean square 1
    keys = jax.random.split(jax.random.key(4), 64)
    kept = [
        float(jnp.mean(stroke.redraw(made, jnp.zeros(1), drawing, keys, steps) * drawing))
        for steps in (1, 2, 4)
    ]
    # of white data E[x_s | x_t] = (alpha_t / alpha_s) x_t, so that alpha_t^2 of the drawing comes back
    expected = made.process.alpha(jnp.array([0.25, 0.5, 1.0])) ** 2
    np.testing.assert_allclose(kept, expected, atol=0.04)


def small():
    module = importlib.import_module("configs.ddgan.stacked_digits")
    return module.get_config("smoke")


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        ("cifar10", (32, 32, 3), (40, 60)),
        pytest.param("celebahq256", (256, 256, 3), (25, 60), marks=pytest.mark.slow),
        pytest.param("lsun_church256", (256, 256, 3), (25, 60), marks=pytest.mark.slow),
        ("stacked_mnist", (32, 32, 3), (10, 20)),
    ],
)
def test_published_configurations_are_traced(name, shape, millions):
    """The paper's networks of both sizes: shapes only, nothing is computed."""
    from experiments.ddgan.networks import make_networks

    config = importlib.import_module(f"configs.ddgan.{name}").get_config("full")
    networks = make_networks(config, shape)
    generator, discriminator = jax.eval_shape(networks.init, jax.random.key(0))
    assert millions[0] * 1e6 < count_params(generator) < millions[1] * 1e6
    x, t = jax.ShapeDtypeStruct((4, *shape), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    z = {"z": jax.ShapeDtypeStruct((4, config.latent), jnp.float32)}
    assert jax.eval_shape(networks.generate, generator, x, t, z).shape == (4, *shape)
    logits = jax.eval_shape(networks.discriminate, discriminator, x, t, x)
    assert (logits.shape, logits.dtype) == ((4,), jnp.float32)


@pytest.mark.slow
def test_runs_side_by_side(tmp_path):
    for steps in (1, 2):
        for mode in ("train", "eval"):
            extra = [f"--config.steps={steps}", "--config.train.num_steps=2"]
            done = launch(
                tmp_path / f"t{steps}", *extra, config="configs/ddgan/gaussians25.py:smoke", mode=mode
            )
            assert done.returncode == 0, done.stderr
    both = f"{tmp_path / 't1'},{tmp_path / 't2'}"
    done = launch_module("experiments.ddgan.compare", workdirs=both, out=tmp_path / "steps.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exact posterior mean") == 2
    with Image.open(tmp_path / "steps.png") as picture:
        assert picture.width > 400
    done = launch_module("experiments.ddgan.compare", workdirs=tmp_path / "t3", out=tmp_path / "no.png")
    assert done.returncode == 2
