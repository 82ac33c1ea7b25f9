"""Registration: what is measured of planted flows, a step that learns, folders without pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.medical_survey import registration as config_file
from diffax.io import save_png
from diffax.processes import Cosine
from experiments.medical_survey.tasks import registration, registration_figures, warped_pairs

SIZE = 16
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
KEY = jax.random.key(1)
MAKE = {"model": registration.diffusion_loss, "baseline": registration.field_loss}


def tiny(**changes):
    config = config_file.get_config("smoke")
    config.model.update({"channel_multipliers": (1,), "middle_attention": False, "channels": 4})
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def pairs():
    """Boxes of greys bent by known flows, without noise."""
    grey = np.full((3, SIZE, SIZE), -1.0, np.float32)
    tissue = np.zeros((3, SIZE, SIZE), np.int32)
    for label, edge in ((1, 1), (2, 3), (3, 6)):
        inside = (slice(None), slice(edge, -edge), slice(edge, -edge))
        tissue[inside], grey[inside] = label, 0.5 * label - 0.9
    cases = {"A": jnp.asarray(grey)[..., None], "tissue": jnp.asarray(tissue)}
    config = tiny(**{"flow.noise": 0.0})
    make = partial(warped_pairs.make_pairs, config)
    return jax.jit(make, compiler_options=QUICK)(cases, jax.random.key(3))


def test_the_true_flow_is_perfect_and_no_flow_changes_nothing(pairs):
    truth, nothing = np.asarray(pairs.flow), np.zeros(pairs.flow.shape, np.float32)
    found = registration_figures.measure(pairs, truth)
    assert {k: found[k].tolist() for k in ("end_point_error", "dice", "dice_white_matter", "psnr")} == {
        "end_point_error": [0] * 3, "dice": [1] * 3, "dice_white_matter": [1] * 3, "psnr": [100] * 3
    }  # fmt: skip
    still = registration_figures.measure(pairs, nothing, nothing)
    error = np.mean((np.asarray(pairs.moving) - np.asarray(pairs.fixed)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(still["psnr"], 10 * np.log10(4 / error), rtol=1e-5)
    np.testing.assert_allclose(still["end_point_error"], found["displacement"], rtol=1e-6)
    assert (still["displacement"] == 0).all()
    assert (still["folding_share"] == 0).all()
    assert np.max(still["inverse_consistency"]) < 1e-6
    assert (still["ncc"] < found["ncc"]).all()
    assert (still["dice"] < 1).all()
    same = np.asarray(pairs.moving_labels)
    expected = registration_figures.mean_dice(same, np.asarray(pairs.fixed_labels))
    np.testing.assert_allclose(still["dice"], expected)


def test_a_flow_beside_the_true_one_is_as_wrong_as_its_distance(pairs):
    beside = np.asarray(pairs.flow) + np.array([0.6, -0.8], np.float32)
    found = registration_figures.measure(pairs, beside)
    np.testing.assert_allclose(found["end_point_error"], 1.0, atol=1e-5)
    outside = np.where(np.asarray(pairs.inside)[..., None], np.asarray(pairs.flow), 9.0)
    assert np.max(registration_figures.measure(pairs, outside)["end_point_error"]) == 0


def test_mean_dice_is_over_the_labels_of_a_case():
    truth = np.array([[[1, 1, 2, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 0]]])
    found = np.array([[[1, 0, 2, 0]], [[1, 1, 3, 0]], [[0, 0, 0, 0]]])
    np.testing.assert_allclose(registration_figures.mean_dice(found, truth), [(2 / 3 + 1) / 2, 0.5, 1.0])


def test_the_way_grows_where_flows_do(pairs):
    truth = np.asarray(pairs.flow)
    found = registration_figures.follow(pairs, lambda moving, fixed, eta: eta * truth, (0.0, 0.5, 1.0))
    assert found["monotone"].tolist() == [1, 1, 1]
    lengths = registration_figures.measure(pairs, truth)["displacement"]
    np.testing.assert_allclose(found["displacement"], np.array([[0.0], [0.5], [1.0]]) * lengths, rtol=1e-5)
    back = registration_figures.follow(pairs, lambda moving, fixed, eta: (1 - eta) * truth, (0.0, 0.5, 1.0))
    assert back["monotone"].tolist() == [0, 0, 0]


class Mix(nn.Module):
    """A network with one parameter a channel, in place of a U-Net, which takes half a minute to compile."""

    out_channels: int

    @nn.compact
    def __call__(self, x, time, cond):
        mixed = nn.Dense(self.out_channels)(jnp.concatenate([x, cond["concat"]], axis=-1))
        return mixed * (1 + time[:, None, None, None])


def test_a_flow_that_grows_with_the_square_of_eta_leaves_the_straight_path():
    """The mean of (eta^2 - eta)^2 over eta in [0, 1] is 1 / 30; what grows with eta itself misses nothing."""

    class Power(nn.Module):
        exponent: int

        def __call__(self, moving, time, cond):
            return jnp.repeat(cond["concat"], 2, axis=-1) ** self.exponent

    ones = jnp.ones((20_000, 1, 1, 1))
    for exponent, expected in ((1, 0.0), (2, 1 / 30)):
        networks = registration.Networks(Mix(1), Power(exponent), Cosine())
        found = registration.path_error(networks, {}, KEY, ones, ones, jnp.repeat(ones, 2, axis=-1))
        assert float(found) == pytest.approx(expected, rel=0.02, abs=1e-9)


def test_the_losses_have_finite_gradients():
    """On pairs as a folder has them: what draws flows is compiled by the pairs above."""
    config = tiny(**{"data.source": "", "data.fixed": "f", "data.moving": "m", "loss.window": 3})
    process = registration.make_networks(config).process
    networks = registration.Networks(Mix(1), Mix(2), process)
    images = 0.5 * np.random.default_rng(0).normal(size=(2, 4, 8, 8, 1)).astype(np.float32)
    losses = {k: make(config, networks) for k, make in MAKE.items()}

    @partial(jax.jit, compiler_options=QUICK)
    def run(cases):
        pairs = warped_pairs.make_pairs(config, cases, KEY)
        params = registration.init_params(networks, pairs, KEY)
        assert jax.eval_shape(losses["baseline"], params["baseline"], cases, KEY)[0].shape == ()
        return jax.value_and_grad(losses["model"], has_aux=True)(params["model"], cases, KEY)

    (loss, metrics), gradients = run({"f": images[0], "m": images[1]})
    assert np.isfinite([loss, *metrics.values()]).all()
    assert set(metrics) == {"noise_error", "ncc", "path"}
    norms = [np.linalg.norm(g) for g in jax.tree.leaves(gradients)]
    assert np.isfinite(norms).all()
    assert min(norms) > 0


def test_the_configured_networks_give_noise_and_flows():
    """Traced, not compiled."""
    networks = registration.make_networks(tiny())
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)

    def both(image):
        params = registration.init_params(networks, warped_pairs.Pairs(image, *[None] * 4), jax.random.key(0))
        noise = networks.find_noise(params["model"]["noise"], image, jnp.ones(2), image, image)
        return noise, networks.find_flow(params["model"]["flow"], image, noise)

    assert [v.shape for v in jax.eval_shape(both, image)] == [(2, 8, 8, 1), (2, 8, 8, 2)]


def test_the_grid_is_straight_without_a_flow_and_moves_with_one():
    straight = registration_figures.grid_picture(np.zeros((1, SIZE, SIZE, 2), np.float32), zoom=2, lines=4)
    assert straight.shape == (1, 2 * SIZE, 2 * SIZE, 1)
    np.testing.assert_array_equal(straight[0], np.swapaxes(straight[0], 0, 1))
    moved = np.broadcast_to(np.array([1.0, 0.0], np.float32), (1, SIZE, SIZE, 2))
    shifted = registration_figures.grid_picture(moved, zoom=2, lines=4)
    np.testing.assert_allclose(shifted[0, :-2], straight[0, 2:], atol=1e-5)


@pytest.mark.parametrize("variant", ["demo", "smoke", "full"])
def test_variants_have_every_field(variant):
    config = config_file.get_config(variant)
    assert config.task == "registration"
    assert warped_pairs.fields(config) == ("A", "tissue")
    assert config.sample.ema in config.train.ema
    networks = registration.make_networks(config)
    assert networks.flow.out_channels == 2
    assert config.data.size % (networks.noise.patch_size * 2 ** len(networks.noise.channel_multipliers)) == 0


def test_folders_without_pairs_are_named(tmp_path):
    folder = {"data.source": str(tmp_path), "data.fixed": "fixed", "data.moving": "moving"}
    with pytest.raises(
        ValueError, match=r"config.data.source: got '.*fixed', allowed: a folder of this name"
    ):
        registration.make_task(tiny(**folder))
    for field in ("fixed", "moving"):
        for case in range(2 if field == "fixed" else 1):
            (tmp_path / field).mkdir(exist_ok=True)
            save_png(tmp_path / field / f"case{case}.png", np.zeros((SIZE, SIZE, 1)))
    with pytest.raises(ValueError, match=r"pairs by file name: got \['case1'\]"):
        registration.make_task(tiny(**folder))
    for changes, message in (
        ({"data.fixed": "fixed"}, "config.data.fixed, config.data.moving: got .*, allowed: both or neither"),
        ({**folder, "data.source": "phantoms"}, "config.data.fixed: got 'fixed', allowed: '' with phantoms"),
        ({"data.dims": 3}, "config.data.dims: got 3, allowed: 2, for registration"),
    ):
        with pytest.raises(ValueError, match=message):
            warped_pairs.fields(tiny(**changes))


def test_pairs_of_a_folder_are_as_they_are_read(tmp_path):
    config = tiny(**{"data.source": str(tmp_path), "data.fixed": "f", "data.moving": "m"})
    assert warped_pairs.fields(config) == ("f", "m")
    for name in ("mask_fixed", "mask_moving"):
        (tmp_path / name).mkdir()
    assert warped_pairs.fields(config) == ("f", "m", "mask_fixed", "mask_moving")
    image = jnp.zeros((1, 8, 8, 1))
    found = warped_pairs.make_pairs(config, {"f": image, "m": image + 0.5}, jax.random.key(0))
    assert found.flow is None
    assert found.fixed_labels is None
    assert float(found.moving[0, 0, 0, 0]) == 0.5
    assert set(registration_figures.measure(found, np.zeros((1, 8, 8, 2), np.float32))) == {
        "psnr", "ncc", "displacement", "folding_share"
    }  # fmt: skip
