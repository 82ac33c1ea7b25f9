"""From Hounsfield units to what a detector counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.operators import attenuation

HU = jnp.array([-3000.0, -1000.0, -500.0, 0.0, 1000.0])


def test_water_air_and_bone():
    np.testing.assert_allclose(attenuation.hu_to_mu(HU), [0, 0, 0.0096, 0.0192, 0.0384], atol=1e-7)
    bone = attenuation.hu_to_mu_with_bone(HU)
    np.testing.assert_allclose(bone, [0, 0, 0.0096, 0.0192, 0.0573], atol=1e-7)
    soft, hard = attenuation.split_materials(jnp.array([-1000.0, -500, 0, 250, 251, 3000]).reshape(6, 1, 1))
    np.testing.assert_allclose(soft.ravel(), [0, 0.5, 1, 1.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hard.ravel(), [0, 0, 0, 0, 1.251, 4], atol=1e-6)


def test_one_energy_is_the_monochromatic_law_and_a_spectrum_hardens():
    paths = jnp.array([[0.0, 50.0, 200.0], [0.0, 10.0, 30.0]])
    mu = jnp.array([[0.02, 0.03], [0.05, 0.1]])
    single = attenuation.polychromatic(paths, mu[:, :1], jnp.array([3.0]))
    np.testing.assert_allclose(single, attenuation.transmission(mu[:, 0] @ paths), rtol=1e-6)
    np.testing.assert_allclose(attenuation.lines_from(single), mu[:, 0] @ paths, rtol=1e-5, atol=1e-6)
    both = attenuation.lines_from(attenuation.polychromatic(paths, mu, jnp.ones(2)))
    mean = mu.mean(axis=1) @ paths
    assert both[0] == pytest.approx(0, abs=1e-6)
    assert np.all(np.asarray(both[1:] < mean[1:]))  # the softer photons are gone first


def test_photons_are_counted():
    transmitted = jnp.full((200, 200), 0.3)
    counted = attenuation.photon_noise(jax.random.key(0), transmitted, 1000.0)
    assert float(counted.mean()) == pytest.approx(0.3, abs=3e-4)
    assert float(counted.var()) == pytest.approx(0.3 / 1000, rel=0.05)
    with pytest.raises(ValueError, match="photons: got 0"):
        attenuation.photon_noise(jax.random.key(0), transmitted, 0.0)


def test_display_is_by_image():
    lines = jnp.stack([jnp.linspace(0, 1, 100).reshape(10, 10), jnp.linspace(5, 25, 100).reshape(10, 10)])
    shown = attenuation.display(lines)
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-6)
    assert (float(shown.min()), float(shown.max())) == (0.0, 1.0)
    clipped = attenuation.display(lines, 0.1, 0.9)
    assert float((clipped == 1).mean()) == pytest.approx(0.1, abs=0.02)
    assert np.all(np.asarray(attenuation.display(jnp.ones((4, 4)))) == 0)
