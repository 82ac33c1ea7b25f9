"""The survey's applications: each builds and can be trained, and each metric knows a planted truth."""

import runpy
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import ROOT, launch_module

from diffax import Cosine, gaussian_denoiser
from diffax.data import phantoms
from diffax.evaluation import Result, read_result
from diffax.operators import cartesian_mask, cartesian_mri, real_images
from diffax.training import TrainState, init_net, make_optimizer, make_train_step
from diffax.training.optim import OptimizerConfig
from experiments.medical_survey import survey, survey_page, task_settings
from experiments.medical_survey.tasks import (
    anomaly_detection,
    base,
    classification,
    composition,
    denoising,
    generation,
    measures,
    pictures,
    reconstruction,
    segmentation,
    translation,
)
from experiments.medical_survey.tasks import text_conditioned_generation as text
from experiments.registry import make_experiment
from experiments.together import together

# in CI one of each kind: five tasks learn what anomaly detection does, translation what segmentation does
KINDS = [
    ("anomaly_detection", "smoke"),
    ("segmentation", "smoke"),
    ("text_conditioned_generation", "smoke"),
    ("denoising", "self_supervised,smoke"),
    ("translation", "unpaired,smoke"),
    ("generation", "volumes,smoke"),
]
REST = [(task, "smoke") for task in composition.TASKS if (task, "smoke") not in KINDS]


def load(task, variant="demo"):
    return runpy.run_path(str(ROOT / f"configs/medical_survey/{task}.py"))["get_config"](variant)


@pytest.mark.parametrize(
    ("task", "variant"), [*KINDS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)]
)
def test_every_task_can_take_a_step(task, variant):
    """Traced, not run: shapes fit, every network is trained, the loss is a number."""
    config = load(task, variant)
    parts = make_experiment(config)
    batch = next(parts.data(0, 1))
    state = jax.eval_shape(parts.init, jax.random.key(0))
    new, metrics = jax.eval_shape(parts.train_step, state, batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()
    assert {"finite", *(f"loss_{name}" for name in state.nets if name != "model")} <= metrics.keys()


def test_full_size_is_for_accelerators():
    config = load("generation", "full")
    assert (config.data.size, config.model.channels, config.model.dtype) == (256, 128, "bfloat16")
    with pytest.raises(ValueError, match="variant: got 'huge'"):
        load("generation", "huge")


def test_tasks_of_one_network_share_its_training():
    """What a run's folder is checked against differs in nothing but what may change."""
    shared = [entry for entry in survey.ENTRIES if entry.trained == survey.SHARED]
    trained = [survey.load_config(entry, "demo") for entry in shared]
    assert len(trained) == 5
    first = trained[0].to_dict()
    for other in (c.to_dict() for c in trained[1:]):
        assert {k for k in first if first[k] != other[k]} <= {"task", "eval", "sample"}


def test_networks_trained_together_are_those_trained_alone():
    optimizer = make_optimizer(OptimizerConfig(), 10)

    def loss(scale, params, batch, key):
        return jnp.mean((params["w"] * scale - batch["x"]) ** 2) + jax.random.normal(key) * params["w"][0], {}

    steps = {k: make_train_step(partial(loss, s), optimizer, {}, net=k) for k, s in (("a", 1.0), ("b", 3.0))}
    nets = {k: init_net({"w": jnp.ones(4)}, optimizer, {}) for k in steps}
    state = TrainState.create(jax.random.key(0), nets)
    batch = {"x": jnp.arange(4.0)}
    both, metrics = together(steps)(state, batch)
    assert int(both.step) == 1
    for name, step in steps.items():
        alone, found = step(state, batch)
        np.testing.assert_array_equal(both.nets[name].params["w"], alone.nets[name].params["w"])
        np.testing.assert_allclose(metrics["loss" if name == "a" else "loss_b"], found["loss"])
    bad = {"x": jnp.full(4, jnp.nan)}
    assert float(together(steps)(state, bad)[1]["finite"]) == 0


# ---- planted truths


@pytest.fixture(scope="module")
def heads():
    found = phantoms.phantom2d(jax.random.key(8), 12, 32, 1.0)
    return {k: np.asarray(v) for k, v in found.items()}


def means(found):
    return {k: float(np.mean(v.mean if hasattr(v, "low") else v)) for k, v in found.items()}


def test_anomalies_planted(heads):
    """The healthy twin is the perfect answer, the image itself the empty one, a shifted twin is between."""
    well = {"B": heads["B0"], "B0": heads["B0"], "mask": 0 * heads["mask"]}
    measure = partial(anomaly_detection.measure, heads, well, "B")
    perfect = means(measure(heads["B0"], heads["B0"]))
    empty = means(measure(heads["B"], heads["B0"]))
    shifted = means(measure(np.roll(heads["B0"], 2, axis=2), heads["B0"]))
    assert perfect["pixel_auroc"] > 0.999
    assert perfect["best_dice"] > 0.85
    assert perfect["image_auroc"] == 1
    assert perfect["twin_psnr"] == np.inf
    assert empty["pixel_auroc"] == 0.5
    assert empty["image_auroc"] == 0.5
    assert empty["twin_psnr"] == empty["twin_psnr_input"]
    assert empty["best_dice"] < shifted["best_dice"] < perfect["best_dice"]


def test_masks_planted(heads):
    truth, healthy = heads["mask"], np.zeros((3, 4, 32, 32, 1), np.float32)
    annotators = np.moveaxis(heads["annotators"], -1, 0)[..., None]
    perfect = means(segmentation.measure(np.stack([truth] * 3), healthy, heads))
    empty = means(segmentation.measure(np.zeros((3, *truth.shape), np.float32), healthy, heads))
    shifted = means(segmentation.measure(np.stack([np.roll(truth, 1, axis=1)] * 3), healthy, heads))
    like_them = means(segmentation.measure(annotators, healthy, heads))
    assert perfect["dice"] == perfect["dice_single"] == 1
    assert perfect["calibration_error"] == 0
    assert empty["dice"] == 0
    assert 0.3 < shifted["dice"] < 0.95
    assert like_them["energy_distance"] == pytest.approx(0, abs=1e-12)
    assert like_them["energy_distance"] < perfect["energy_distance"] < empty["energy_distance"]
    assert segmentation.threshold(load("segmentation"), heads)["dice_pooled"] < 0.6
    outvoted = np.stack([truth, truth, np.ones_like(truth)])  # two samples of three are right
    assert means(segmentation.measure(outvoted, healthy, heads))["dice"] == 1
    alarms = segmentation.measure(np.stack([truth] * 3), healthy + 1, heads)["healthy_false_pixels"]
    np.testing.assert_array_equal(alarms, np.full(4, 1024.0))


def test_images_planted(heads):
    """A constant error of 0.2 is 20 dB of a range of 2; no error counts as 100 dB."""
    truth = np.clip(heads["A"], -0.9, 0.7)
    found = measures.agreement(truth + np.float32(0.2), truth)
    np.testing.assert_allclose(found["psnr"], 20, atol=1e-3)
    perfect = measures.agreement(truth, truth)
    np.testing.assert_allclose(perfect["psnr"], 100)
    np.testing.assert_allclose(perfect["ssim"], 1, atol=1e-6)


def test_labels_planted():
    truth = np.array([0, 1, 1, 0, 1])
    scores = np.eye(2)[truth]
    assert means(classification.measure(scores, truth)) == {"accuracy": 1, "auroc": 1}
    assert means(classification.measure(1 - scores, truth)) == {"accuracy": 0, "auroc": 0}
    assert means(classification.measure(np.zeros((5, 2)), truth)) == {"accuracy": 0.4, "auroc": 0.5}


def test_samples_planted():
    """Held-out images themselves are at no distance; copies of training images are found."""
    rng = np.random.default_rng(0)
    held, other = (np.clip(rng.normal(0, 0.3, (110, 16, 16, 1)), -1, 1).astype(np.float32) for _ in range(2))
    assert generation.quality(held, held, other)["frechet"] == pytest.approx(0, abs=1e-3)
    shifted = generation.quality(np.clip(held + 0.5, -1, 1), held, other)
    assert shifted["frechet"] > 10 * abs(generation.quality(other, held, held)["frechet"])
    copied = generation.quality(other, held, other)
    assert copied["copy_median_ratio"] == pytest.approx(0, abs=1e-3)
    assert copied["copy_duplicates"] == 110


def test_reports_planted():
    """A reader that is right, and one that always says the same."""
    asked = text.COMBINATIONS[np.arange(100) % 10]
    images = np.random.default_rng(1).uniform(-1, 1, (100, 16, 16, 1)).astype(np.float32)
    right = SimpleNamespace(logits=lambda x: np.eye(10)[np.arange(100) % 10])
    found = means(text.measure(right, images, asked, images))
    assert all(found[name] == 1 for name in ("all_facts", *text.FACTS))
    always = SimpleNamespace(logits=lambda x: np.eye(10)[np.zeros(100, int)])
    found = means(text.measure(always, images, asked, images))
    assert found["all_facts"] == 0.1
    assert found["lesion"] == pytest.approx(0.2)
    assert found["enlarged"] == 0.5
    assert len(text.COMBINATIONS) == 10


def test_measurements_planted():
    mask = cartesian_mask((16, 16), "uniform1d", 2.0, seed=1)
    operator = real_images(cartesian_mri(mask, (16, 16, 3)))
    truth = jax.random.normal(jax.random.key(0), (3, 16, 16, 1))
    problem = reconstruction.measured(operator, truth)
    assert reconstruction.misfit(problem, truth) == pytest.approx(0, abs=1e-6)
    assert reconstruction.misfit(problem, jnp.zeros_like(truth)) == pytest.approx(1)


def test_maps_of_greys():
    """Where the target is a function of the source's grey, the map is that function."""
    x = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(1, 64, 64, 1)
    found = translation.grey_map(x, x**2, x)
    assert np.abs(found - x**2).max() < 0.05


# ---- denoising on data whose answer is known


def test_the_matching_step_is_the_posterior_mean():
    """Of N(m, v) with noise s: (s^2 m + v y) / (s^2 + v), through the step of any process."""
    process, level = Cosine(), 0.1
    mean, variance, y = 0.3, 0.2, jnp.array([[-0.5], [0.9]])
    x, t = denoising.matched_step(process, y, level)
    found = gaussian_denoiser(process, mean, variance)(x, t, None)
    s2 = (2 * level) ** 2
    np.testing.assert_allclose(found, (s2 * mean + variance * y) / (s2 + variance), rtol=1e-4)


# ---- reports and programs


def test_figures_carry_intervals():
    values = {"psnr": np.array([20.0, 22.0, 24.0]), "share": 0.5, "of_some": np.array([1.0, 2.0])}
    found = measures.report({"": values}, n_real=3, n_fake=6, split="x", seed=3)
    psnr, share, of_some = found["figures"]
    assert (psnr.value, psnr.n_real, psnr.n_fake, psnr.split, psnr.seed) == (22.0, 3, 6, "x", 3)
    assert (of_some.n_real, of_some.n_fake) == (2, 2)
    assert psnr.low < 22 < psnr.high
    assert share.low is None
    assert found["rows"] == [{"name": "diffusion", "psnr": 22.0, "share": 0.5, "of_some": 1.5}]


def test_a_task_is_measured_once_and_shown_beside_its_baseline(tmp_path, monkeypatch):
    """With a measurement planted in training's place; a training that SIGTERM ended shows nothing."""
    entry = next(e for e in survey.ENTRIES if e.name == "denoising")
    measured = []

    def evaluate(state, folder):
        measured.append(folder)
        pictures.rows(folder / "denoised.png", {"truth": np.zeros((2, 8, 8, 1))})
        found = {"": {"psnr_0.1": np.array([31.0, 33.0])}, "non_local_means": {"psnr_0.1": 27.5}}
        return measures.report(found, n_real=2, split="planted", seed=0)

    ended = iter((True, True, False))
    monkeypatch.setattr(survey.modes, "train", lambda config, workdir: next(ended))
    planted = SimpleNamespace(evaluate=evaluate), SimpleNamespace(step=jnp.zeros((), jnp.int32))
    monkeypatch.setattr(survey.modes, "load", lambda config, path: planted)
    for _ in range(2):
        section = survey.run(entry, "smoke", tmp_path)
    assert measured == [tmp_path / "denoising"]
    page = survey_page.render([section])
    assert page.count("data:image/png;base64") == 1
    assert "non local means" in page
    assert "27.5" in page
    assert survey.run(entry, "smoke", tmp_path) is None


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [(30.0, 27.0, "diffusion ahead"), (27.0, 30.0, "baseline ahead"), (27.00001, 27.0, "equal")],
)
def test_the_overview_says_who_is_ahead(tmp_path, own, other, said):
    entry = next(e for e in survey.ENTRIES if e.name == "denoising")
    found = {"": {"psnr_0.1": own}, "non_local_means": {"psnr_0.1": other}}
    figures = measures.report(found, n_real=2, split="planted", seed=0)["figures"]
    row = survey_page._overview_row(survey_page.Section(entry, "", Result(figures, {}), tmp_path, 1.0))
    assert f"<td>{said}</td>" in row
    assert row.count("<b>") == (2 if said == "equal" else 1)


def test_a_method_is_described_as_its_module_does():
    text = "Plain ``a < b``.\n\n* *one*: ``x``\n  goes on;\n* two\n\n    |x|^2 < 1\n"
    assert survey_page.prose(text) == (
        "<p>Plain <code>a &lt; b</code>.</p>"
        "<ul><li><em>one</em>: <code>x</code>\n  goes on;</li><li>two</li></ul>"
        "<pre>    |x|^2 &lt; 1</pre>"
    )


@pytest.mark.slow
def test_a_page_of_one_task(tmp_path):
    """The whole way: train, evaluate, page; a second call does nothing again."""
    flags = {"workdir": tmp_path, "tasks": "denoising", "variant": "smoke"}
    done = launch_module("experiments.medical_survey.survey", **flags)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "survey.html").read_text()
    assert page.count("data:image/png;base64") == 1
    assert "non local means" in page
    found = read_result(tmp_path / "denoising" / "result.json")
    psnr = next(f for f in found.figures if f.name == "psnr_0.1")
    assert psnr.low < psnr.value < psnr.high
    written = (tmp_path / "denoising" / "result.json").stat().st_mtime_ns
    again = launch_module("experiments.medical_survey.survey", **flags)
    assert again.returncode == 0
    assert (tmp_path / "denoising" / "result.json").stat().st_mtime_ns == written
    bad = launch_module("experiments.medical_survey.survey", **flags | {"tasks": "surgery"})
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert "surgery" in bad.stderr


def test_settings_name_every_task():
    known = {entry.task for entry in survey.ENTRIES}
    assert known == set(composition.TASKS)
    assert task_settings.base().task in known


def test_the_answer_of_a_reconstruction_is_the_mean_of_its_samples(heads, monkeypatch):
    """Two samples that miss the truth to either side: their mean is it, and their spread what each misses."""
    config = load("reconstruction", "smoke")
    config.eval.tv_steps = 1
    truth = heads["B"][:2]
    off = 0.1 * np.ones_like(truth)
    monkeypatch.setattr(reconstruction, "reconstruct", lambda *_: np.stack([truth + off, truth - off]))
    shown, found = reconstruction.measure(SimpleNamespace(config=config), {}, "mri", truth)
    assert min(found[""]["psnr"]) > 90
    np.testing.assert_allclose(found["sample"]["psnr"], 26, atol=1)  # 0.1 of a range of 2, but for clipping
    assert found[""]["data_residual"] < 1e-5 < found["sample"]["data_residual"]
    np.testing.assert_allclose(shown["spread x 10"], 1, atol=1e-5)


def test_each_word_knows_where_pixels_lie():
    """Two channels of places, then two for each word: zero where it is not said, mirrored in x and in y."""
    words = jnp.zeros((2, 8)).at[1, 3].set(1.0)
    found = text.conditions(words, 4)
    nothing, one = np.asarray(found["concat"]).reshape(2, 4, 4, 9, 2)
    np.testing.assert_allclose(nothing[0, :, 0, 0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_allclose(nothing[:, 0, 0, 1], [-0.75, -0.25, 0.25, 0.75])
    assert not nothing[..., 1:, :].any()
    np.testing.assert_array_equal(one[..., 4, :], one[..., 0, :])
    assert not np.delete(one, [0, 4], axis=2).any()


def test_estimates_of_air_are_not_cut_at_black():
    """Scattered about -1 with both signs, their mean stays; guidance 1 calls the network once."""
    calls = []

    def denoise(x, t, cond):
        calls.append(x.shape)
        return x

    x = jnp.array([[-1.05, -0.95, 3.0]])
    found = base.guided(1.0)(denoise)(x, jnp.zeros(1), None)
    np.testing.assert_allclose(found, [[-1.05, -0.95, 1.1]])
    assert calls == [(1, 3)]
