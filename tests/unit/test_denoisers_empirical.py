"""The denoiser of finite data, against the mixture of point masses and against its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import EDM, VP
from diffax.denoisers import empirical_denoiser, empirical_log_prob, mixture_denoiser, mixture_log_prob

POINTS = jax.random.normal(jax.random.key(0), (7, 2))
X = jax.random.normal(jax.random.key(1), (40, 2))


@pytest.mark.parametrize(
    ("process", "t"), [(EDM(), np.geomspace(0.05, 5.0, 40)), (VP(), np.linspace(0.05, 1.0, 40))]
)
def test_a_mixture_of_point_masses(process, t):
    masses, t = (np.ones(7), POINTS, np.zeros(7)), jnp.asarray(t, jnp.float32)
    expected = mixture_denoiser(process, *masses)(X, t, None)
    np.testing.assert_allclose(empirical_denoiser(process, POINTS)(X, t), expected, atol=1e-4)
    expected = mixture_log_prob(process, *masses)(X, t)
    np.testing.assert_allclose(empirical_log_prob(process, POINTS)(X, t), expected, rtol=1e-4, atol=1e-4)


def test_the_nearest_point_at_little_noise_and_the_mean_at_much():
    process = EDM(t_max=1e4)
    denoise = empirical_denoiser(process, POINTS)
    near = POINTS[3] + 1e-3 * X[:1]
    np.testing.assert_allclose(denoise(near, jnp.array([0.002])), POINTS[3:4], atol=1e-5)
    np.testing.assert_allclose(denoise(X, jnp.full(40, 1e4)), jnp.tile(POINTS.mean(0), (40, 1)), atol=1e-3)
