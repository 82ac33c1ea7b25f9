"""The classifier of noisy images: silent at first, and reads what it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.models import NoisyClassifier


@pytest.fixture(scope="module")
def small():
    model = NoisyClassifier(3, channels=8, block_channels=(8,), patch_size=2)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params = model.init(jax.random.key(1), x, jnp.zeros(2))["params"]
    return model, params, x


def test_every_class_is_as_likely_at_first(small):
    model, params, x = small
    np.testing.assert_array_equal(model.apply({"params": params}, x, jnp.zeros(2)), np.zeros((2, 3)))


def test_it_depends_on_image_and_time(small):
    """With random weights in place of the silent ones; each sample on its own alone."""
    model, params, x = small
    fill = lambda p: 0.1 * jnp.ones_like(p) + 0.1 * jnp.arange(p.size).reshape(p.shape) / p.size  # noqa: E731
    params = jax.tree.map(lambda p: jnp.where(jnp.any(p != 0), p, fill(p)), params)
    run = jax.jit(lambda x, t: model.apply({"params": params}, x, t))
    base = np.asarray(run(x, jnp.zeros(2)))
    assert np.abs(run(x.at[0].add(1.0), jnp.zeros(2)) - base)[0].max() > 1e-4
    np.testing.assert_array_equal(run(x.at[0].add(1.0), jnp.zeros(2))[1], base[1])
    assert np.abs(run(x, jnp.array([0.5, 0.0])) - base)[0].max() > 1e-4
    slope = jax.grad(lambda x: run(x, jnp.zeros(2))[:, 0].sum())(x)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


def test_one_class_is_none():
    with pytest.raises(ValueError, match="classes: got 1"):
        NoisyClassifier(1).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
