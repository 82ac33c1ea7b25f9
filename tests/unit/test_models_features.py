"""Activations that networks keep, the heads that read them, and perceptrons over images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.models import MLP, DiT, FeatureHeads, UNet, apply_keeping

KEPT = {
    "unet": (
        UNet(8, (1, 2), 1, (False, False), num_classes=3),
        (8, 8, 1),
        {"level0": (8, 8, 8), "level1": (4, 4, 16), "middle": (4, 4, 16)},
    ),
    "dit": (DiT(width=16, depth=2, heads=2), (4, 8, 3), {"hidden0": (2, 4, 16), "hidden1": (2, 4, 16)}),
    "mlp": (MLP(width=16, blocks=2), (4, 4, 1), {"hidden0": (16,), "hidden1": (16,)}),
}


def random_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("name", KEPT)
def test_a_network_hands_out_what_it_keeps_and_is_not_changed_by_it(name):
    model, shape, kept = KEPT[name]
    x, time = jax.random.normal(jax.random.key(0), (2, *shape)), jnp.asarray([0.2, 0.9])
    made = jax.eval_shape(model.init, jax.random.key(1), x, time)
    assert set(made) == {"params"}
    params = random_like(made["params"])
    plain = jax.jit(lambda p, x: model.apply({"params": p}, x, time, None))(params, x)
    looked, features = jax.jit(lambda p, x: apply_keeping(model, p, x, time, None))(params, x)
    np.testing.assert_allclose(looked, plain, rtol=1e-5, atol=1e-5)
    assert {key: value.shape[1:] for key, value in features.items()} == kept
    # each of them depends on its own sample, and all of them on it
    other = jax.jit(lambda p, x: apply_keeping(model, p, x, time, None))(params, x.at[0].add(0.1))[1]
    for key, value in features.items():
        np.testing.assert_allclose(other[key][1], value[1], rtol=1e-5, atol=1e-5)
        assert not np.allclose(other[key][0], value[0], rtol=1e-3, atol=1e-3)


FEATURES = {
    "b": jax.random.normal(jax.random.key(0), (3, 32, 32, 8)),
    "a": jax.random.normal(jax.random.key(1), (3, 8, 8, 4)),
    "c": jax.random.normal(jax.random.key(2), (3, 16)),
}


class TestHeads:
    def test_a_logit_an_activation_from_zero_in_the_order_of_names(self):
        model = FeatureHeads()
        params = jax.jit(model.init)(jax.random.key(0), FEATURES)["params"]
        np.testing.assert_array_equal(model.apply({"params": params}, FEATURES), np.zeros((3, 3)))
        assert params["a_out"]["kernel"].shape == (4 * 4 * 4, 1)  # one halving of 8 x 8
        assert params["b_out"]["kernel"].shape == (4 * 4 * 8, 1)  # three of 32 x 32
        alone = params | {"b_out": {"kernel": jnp.ones((128, 1)), "bias": jnp.zeros(1)}}
        found = model.apply({"params": alone}, FEATURES)
        assert np.count_nonzero(found[:, 1]) == 3
        assert np.count_nonzero(found[:, [0, 2]]) == 0

    def test_samples_do_not_see_each_other(self):
        model = FeatureHeads(8)
        params = random_like(jax.eval_shape(model.init, jax.random.key(0), FEATURES)["params"])
        run = jax.jit(lambda f: model.apply({"params": params}, f))
        whole, part = run(FEATURES), run({name: f[:1] for name, f in FEATURES.items()})
        np.testing.assert_allclose(whole[:1], part, rtol=1e-4, atol=1e-5)

    def test_half_precision_inside_and_single_outside(self):
        model = FeatureHeads(8, jnp.bfloat16)
        params = random_like(jax.eval_shape(model.init, jax.random.key(0), FEATURES)["params"])
        exact = FeatureHeads(8).apply({"params": params}, FEATURES)
        found = model.apply({"params": params}, FEATURES)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=0.1, atol=0.1)
        assert not np.array_equal(found, exact)

    @pytest.mark.parametrize(("features", "said"), [({}, "features"), ({"z": jnp.zeros((1, 2, 3))}, "'z'")])
    def test_bad_input(self, features, said):
        with pytest.raises(ValueError, match=said):
            FeatureHeads().init(jax.random.key(0), features)


def test_a_perceptron_of_images_is_one_of_their_pixels_in_a_row():
    model = MLP(width=16, blocks=1, num_classes=3)
    x, time = jax.random.normal(jax.random.key(0), (2, 4, 3, 2)), jnp.asarray([0.1, 0.5])
    params = random_like(jax.eval_shape(model.init, jax.random.key(1), x, time)["params"])
    images = model.apply({"params": params}, x, time)
    rows = model.apply({"params": params}, x.reshape(2, -1), time)
    assert images.shape == x.shape
    np.testing.assert_allclose(images.reshape(2, -1), rows, rtol=1e-6)
