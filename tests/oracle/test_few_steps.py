"""A chain of a few large steps: published tables, the law of its pairs, and what denoiser it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import sample
from diffax.data.points import sample_mixture
from diffax.denoisers import mixture_responsibilities
from diffax.processes import FromTable, ancestral_pair, bridge, tables
from diffax.samplers import posterior
from experiments.ddgan import method, points, settings

# Xiao et al. 2022's schedule at T = 4 and 8, computed in float64 by its definition, to eight digits
LEVELS = {4: [0.52174470, 0.07867597, 0.00342888, 0.00004319]}
POSTERIOR = {
    1: ([0], [1], [0]),
    2: ([0, 0.92085803], [1, 0.28035049], [0, 0.02158759]),
    4: (
        [0, 0.44081915, 0.88420244, 0.98406071],
        [1, 0.66577836, 0.26919089, 0.05782154],
        [0, 0.20157628, 0.19300081, 0.11185234],
    ),
    8: (
        [0, 0.12479263, 0.34237711, 0.55306595, 0.71032746, 0.80825868, 0.86634020, 0.90353049],
        [1, 0.73262742, 0.51709929, 0.35240982, 0.21625554, 0.11413068, 0.05090451, 0.01916308],
        [0, 0.25726162, 0.42189254, 0.47779057, 0.46381348, 0.41611729, 0.36095633, 0.30987777],
    ),
}
MIXTURE = points.make_mixture(settings.points())
N = 10_000


@pytest.mark.parametrize("steps", POSTERIOR)
def test_the_posterior_table(steps):
    times = np.arange(steps + 1) / steps
    found = bridge(method.chain(steps), jnp.asarray(times[:-1]), jnp.asarray(times[1:]))
    variance, on_x0, on_xt = POSTERIOR[steps]
    np.testing.assert_allclose(found.var, variance, atol=2e-7)
    np.testing.assert_allclose(found.c_x0, on_x0, atol=2e-7)
    np.testing.assert_allclose(found.c_xt, on_xt, atol=2e-7)


def test_the_levels():
    np.testing.assert_allclose(tables.vp(4), LEVELS[4], atol=5e-9)
    assert tables.vp(1)[0] == pytest.approx(4.3190e-5, rel=1e-4)
    for bad in ({"n": 0}, {"n": 2, "beta_min": 30.0}, {"n": 2, "start": 1.0}):
        with pytest.raises(ValueError, match=r"n|beta"):
            tables.vp(**bad)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_pairs_have_the_covariance_of_the_chain(index):
    """Given x0: Var x_s = 1 - a_s, Var x_t = 1 - a_t, Cov = sqrt(a_t / a_s) (1 - a_s)."""
    process, n = method.chain(4), 200_000
    levels = np.concatenate([[1.0], tables.vp(4)])
    noise = tuple(jax.random.normal(jax.random.key(i), (n, 1)) for i in range(2))
    x0 = jnp.full((n, 1), 0.7)
    x_s, x_t = ancestral_pair(process, x0, noise, jnp.full(n, index / 4), jnp.full(n, (index + 1) / 4))
    a_s, a_t = levels[index], levels[index + 1]
    found = np.cov(np.stack([x_s[:, 0], x_t[:, 0]]))
    cross = np.sqrt(a_t / a_s) * (1 - a_s)
    np.testing.assert_allclose(found, [[1 - a_s, cross], [cross, 1 - a_t]], atol=0.01)
    np.testing.assert_allclose(x_s.mean(), 0.7 * np.sqrt(a_s), atol=0.01)
    np.testing.assert_allclose(x_t.mean(), 0.7 * np.sqrt(a_t), atol=0.01)


def multimodal(process: FromTable):
    """A denoiser that draws x0 from the exact posterior of the mixture, out of three normals."""

    def denoise(x, t, cond):
        z, time = cond["z"], t[0]
        alpha, sigma = process.alpha(time), process.sigma(time)
        shares = mixture_responsibilities(process, *MIXTURE)(x, t)
        uniform = jax.scipy.stats.norm.cdf(z[:, 2])
        mode = jnp.sum(jnp.cumsum(shares, axis=1) < uniform[:, None] * (1 - 1e-6), axis=1)
        prior = MIXTURE.covs[0, 0, 0]  # all components are alike and isotropic
        variance = 1 / (1 / prior + alpha**2 / sigma**2)
        mean = variance * (MIXTURE.means[mode] / prior + alpha * x / sigma**2)
        return mean + jnp.sqrt(variance) * z[:, :2]

    return denoise


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_denoiser_that_draws_from_the_posterior_needs_no_more_steps(steps):
    process = method.chain(steps)
    run = jax.jit(
        lambda keys: (
            sample(keys, multimodal(process), process, posterior(latent=3), method.grid(steps), shape=(2,)).x
        )
    )
    found = points.measure(np.asarray(run(jax.random.split(jax.random.key(steps), N))), MIXTURE)
    assert found["modes"] == 25
    assert found["high_quality"] >= 0.98
    assert found["tv"] <= 0.03


@pytest.mark.parametrize(
    ("steps", "modes", "quality", "tv"),
    [
        (1, 1, 1.0, 0.96),
        (2, 1, 0.077, 0.758),
        (4, 9, 0.066, 0.526),
        (8, 8, 0.077, 0.275),
        (16, 25, 0.454, 0.123),
    ],
)
def test_the_posterior_mean_fails_in_few_steps(steps, modes, quality, tv):
    made = method.Method(None, None, steps, 0, 0.0, 1, True)
    found = points.measure(points.oracle_mean(made, MIXTURE, jax.random.key(0), N), MIXTURE)
    assert found["modes"] == modes
    assert found["high_quality"] == pytest.approx(quality, abs=0.015)
    assert found["tv"] == pytest.approx(tv, abs=0.025)


def test_real_data_and_noise_bracket_the_figures():
    real = points.measure(np.asarray(sample_mixture(MIXTURE, jax.random.key(0), N)), MIXTURE)
    assert real["modes"] == 25
    assert real["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.005)
    assert real["tv"] < 0.03
    noise = np.asarray(jax.random.normal(jax.random.key(1), (N, 2)))
    assert points.measure(noise, MIXTURE)["high_quality"] < 0.1


def test_the_exact_posterior_has_the_known_number_of_effective_modes():
    """Given x_t at T = 4: 11.97 modes at the first step, 22.92 at the second (computed independently)."""
    process = method.chain(4)
    for index, expected in ((0, 11.97), (1, 22.92)):
        x0 = sample_mixture(MIXTURE, jax.random.key(index), 20_000)
        t = (index + 1) / 4
        x_t = process.alpha(t) * x0 + process.sigma(t) * jax.random.normal(jax.random.key(9), x0.shape)
        shares = np.asarray(mixture_responsibilities(process, *MIXTURE)(x_t, jnp.full(len(x0), t)))
        assert points._effective(shares) == pytest.approx(expected, abs=0.15)
