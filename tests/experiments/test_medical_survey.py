"""The survey's compositions: each framework learns, in its own terms, what its theory says."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import bind, convert, gaussian_denoiser, sample
from diffax.evaluation import Figure
from diffax.io import in_batches, save_png
from diffax.losses import denoising_loss
from diffax.processes import per_sample
from diffax.training import count_params
from experiments import build
from experiments.medical_survey import method, page, settings
from experiments.registry import make_experiment

CONFIGS = {
    "digits": ("demo", "smoke", "full"),
    "ddpm_digits": ("demo", "smoke", "full"),
    "ncsn_digits": ("demo", "smoke", "full"),
    "sde_digits": ("demo", "smoke", "full", "vp", "subvp", "ve"),
    "mnist": ("smoke", "full"),
    "cifar10": ("smoke", "full", "ddpm"),
}


def load(name, variant):
    return importlib.import_module(f"configs.medical_survey.{name}").get_config(variant)


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n, vs in CONFIGS.items() for v in vs])
def test_every_variant_builds(name, variant):
    """Networks are only traced; data that is not embedded is not opened."""
    config = load(name, variant)
    for solver in config.solvers.values():
        made = method.make_solver(solver)
        assert made.grid.ndim == 1
    model = build.make_model(config.model, config.data.classes)
    size = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}.get(name, (8, 8, 1))
    process = build.make_process(config.process)
    loss = method.make_loss(config, model, process)
    cond = method.condition(jnp.zeros(2, jnp.int32))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, *size)), jnp.zeros(2), cond)[
        "params"
    ]
    batch = {"image": jnp.zeros((2, *size)), "label": jnp.zeros(2, jnp.int32)}
    value, _ = jax.eval_shape(loss, params, batch, jax.random.key(0))
    assert value.shape == ()
    assert config.sample.ema in config.train.ema
    if (name, variant) == ("cifar10", "ddpm"):
        assert count_params(params) == pytest.approx(35.7e6, rel=0.02)


def test_a_variant_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="variant: got 'huge', allowed: one of demo"):
        load("ddpm_digits", "huge")


@pytest.mark.parametrize("solver", sorted(load("digits", "demo").solvers))
def test_every_solver_of_the_demo_samples_a_known_distribution(solver):
    """The table's samplers, grids and step counts on N(0.1, 0.5^2), the digits' own spread."""
    made = method.make_solver(load("digits", "demo").solvers[solver])
    denoise = gaussian_denoiser(made.process, 0.1, 0.25)
    keys = jax.random.split(jax.random.key(0), 4000)
    x = jax.jit(lambda k: sample(k, denoise, made.process, made.sampler, made.grid, shape=(4,)).x)(keys)
    assert float(x.mean()) == pytest.approx(0.1, abs=0.03)
    # annealed Langevin with a few steps a level is known to leave too wide a law
    assert float(x.std()) == pytest.approx(0.5, abs=0.1 if solver == "ncsn" else 0.05)


@pytest.mark.parametrize("kind", ["eps", "v", "velocity"])
def test_the_loss_does_not_depend_on_how_the_network_says_it(kind):
    """The same estimate of x0, said in another parametrization, has the same loss."""
    process = build.make_process(settings.VP)
    truth = gaussian_denoiser(process, 0.0, 0.25)
    x0 = 0.5 * jax.random.normal(jax.random.key(1), (512, 4, 4, 1))

    def network(kind):
        def apply_fn(params, scaled, t, cond):
            x = scaled * jnp.sqrt(per_sample(process.sigma(t) ** 2 + 0.25 * process.alpha(t) ** 2, scaled))
            return convert(process, truth(x, t, None), x, t, source="x0", target=kind)

        return bind(apply_fn, None, process=process, output=kind, sigma_data=0.5)

    losses = [
        float(denoising_loss(jax.random.key(0), network(kind), process, x0).loss) for kind in ("x0", kind)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_batches_of_any_size_give_the_same_images():
    config = load("digits", "smoke")
    solver = method.make_solver(settings.solver("DDPM", settings.TABLE, "ddpm", "trailing", 4))
    experiment = make_experiment(config)
    params = experiment.init(jax.random.key(0)).nets["model"].params
    params = jax.tree.map(lambda p: p + 0.05, params)  # away from the zero initialisation
    model = build.make_model(config.model, config.data.classes)
    generate = method.make_generate(config, model, (8, 8, 1), solver)
    labels = np.arange(10)
    (whole,) = in_batches(generate, params, jax.random.key(1), labels, 10)
    parts = list(in_batches(generate, params, jax.random.key(1), labels, 4))
    assert int(whole.nfe) == 4
    assert [len(part.x) for part in parts] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate([part.x for part in parts]), whole.x, atol=1e-4)


def test_sheets_have_a_column_a_class():
    labels = np.array([3, 1, 0, 2, 4, 5, 6, 7, 8, 9] * 3)
    index = method.by_class(labels)
    np.testing.assert_array_equal(labels[index].reshape(3, 10), np.tile(np.arange(10), (3, 1)))
    np.testing.assert_array_equal(method.by_class(np.full(7, method.UNCONDITIONAL)), np.arange(7))


def test_the_page_escapes_and_holds_its_pictures(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((4, 4, 1)))
    floor = Figure("floor/frechet", 2.0, n_fake=10)
    row = {"framework": "SDE", "solver": "a<b", "nfe": 3, "frechet": 3.0, "class_accuracy": 0.5,
           "coverage": 0.5, "copy_median_ratio": 1.0, "seconds": 0.1}  # fmt: skip
    text = page.render("T", "facts", [row], floor, [page.Section("S", [(Path(tmp_path / "a.png"), "c")])])
    assert "a&lt;b" in text
    assert "1.50" in text
    assert "data:image/png;base64," in text
