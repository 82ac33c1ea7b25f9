"""Posterior denoisers and samplers against the closed-form posterior of a linear-Gaussian problem."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffax import EDM, VP, gaussian_denoiser, grids, inverse, sample
from diffax.inverse import LinearProblem
from diffax.operators import LinearOperator
from diffax.samplers import chain, ddpm, heun

STD, N = 0.3, 8192
MATRIX = np.array([[1.0, -0.5, 0.3, 0.8], [0.2, 0.9, -1.1, 0.4]])
Y = np.array([1.0, -0.5])
MEAN = np.array([0.3, -0.2, 0.5, 0.0])
FACTOR = np.array([[1.0, 0, 0, 0], [0.7, 0.6, 0, 0], [-0.3, 0.4, 0.9, 0], [0.2, -0.5, 0.1, 0.5]])
PRIORS = {"unit": np.eye(4), "correlated": FACTOR @ FACTOR.T}
PROCESSES = {"edm": EDM(), "vp": VP()}


def problem_of(n: int, std: float = STD, matrix: np.ndarray = MATRIX) -> LinearProblem:
    """The same measurement of n slices of 2x2 pixels."""
    operator = LinearOperator(
        Partial(_dense, jnp.asarray(matrix, jnp.float32)), None, (2, 2, n), (len(matrix), n)
    )
    return LinearProblem(operator, jnp.tile(jnp.asarray(Y, jnp.float32)[:, None], n), std)


def _dense(matrix, images):
    return matrix @ images.reshape(4, -1)


def posterior_of(mean: np.ndarray, cov: np.ndarray, std: float = STD) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x given y = MATRIX x + n, x ~ N(mean, cov)."""
    gain = cov @ MATRIX.T @ np.linalg.inv(MATRIX @ cov @ MATRIX.T + std**2 * np.eye(2))
    return mean + gain @ (Y - MATRIX @ mean), cov - gain @ MATRIX @ cov


def denoiser(process, cov):
    exact = gaussian_denoiser(process, jnp.asarray(MEAN, jnp.float32), jnp.asarray(cov, jnp.float32))
    return lambda x, t, cond=None: exact(x.reshape(-1, 4), t).reshape(x.shape)


def drawn(process, cov, transform, sampler, grid, n=N):
    """Mean and covariance of posterior samples; the standard error of a mean is about 0.01."""
    keys = jax.random.split(jax.random.key(1), n)
    draw = jax.jit(
        lambda keys: (
            sample(keys, transform(denoiser(process, cov)), process, sampler, grid, shape=(2, 2, 1)).x
        )
    )
    x = np.asarray(draw(keys)).reshape(n, 4)
    return x.mean(axis=0), np.cov(x.T)


EXACT = {
    ("unit", "isotropic"): partial(inverse.isotropic, n_steps=6),
    ("unit", "pigdm"): partial(inverse.pigdm, n_steps=6),
    ("unit", "tweedie"): partial(inverse.tweedie_covariance, n_steps=3),
    ("correlated", "tweedie"): partial(inverse.tweedie_covariance, n_steps=3),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("prior", "name"), EXACT)
def test_exact_transforms_are_the_posterior_mean_at_every_noise_level(process, prior, name):
    """E[x0 | x_t, y]: the mean of x0 under the prior, given both linear measurements x_t and y."""
    chosen, cov = PROCESSES[process], PRIORS[prior]
    x = np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
    for log_snr in (-6.0, -1.0, 2.0):
        t = jnp.full(5, chosen.time(log_snr))
        alpha, sigma = float(chosen.alpha(t)[0]), float(chosen.sigma(t)[0])
        refined = EXACT[prior, name](problem_of(5), chosen)(denoiser(chosen, cov))(jnp.asarray(x), t, None)
        both = np.concatenate([alpha * np.eye(4), MATRIX])
        noise = np.diag([sigma**2] * 4 + [STD**2] * 2)
        gain = cov @ both.T @ np.linalg.inv(both @ cov @ both.T + noise)
        measured = np.concatenate([x.reshape(5, 4), np.tile(Y, (5, 1))], axis=1)
        expected = MEAN + (measured - both @ MEAN) @ gain.T
        np.testing.assert_allclose(np.asarray(refined).reshape(5, 4), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("process", "prior", "name"),
    [("edm", "unit", "isotropic"), ("vp", "unit", "pigdm"), ("edm", "correlated", "tweedie")],
)
def test_samples_have_the_posterior_mean_and_covariance(process, prior, name):
    chosen, cov = PROCESSES[process], PRIORS[prior]
    grid = grids.log_snr(chosen, 40, final="zero")
    mean, covariance = drawn(chosen, cov, EXACT[prior, name](problem_of(N), chosen), heun(), grid)
    expected = posterior_of(MEAN, cov)
    np.testing.assert_allclose(mean, expected[0], atol=0.04)
    np.testing.assert_allclose(covariance, expected[1], atol=0.05)


def test_the_bias_of_the_others_is_what_their_covariance_says():
    """Unit prior, EDM, much noise: all four come out nearer to noisy measurements than the posterior is."""
    process, cov, std = EDM(), PRIORS["unit"], 0.8
    grid, problem = grids.karras(process, 50, final="zero"), problem_of(N, std)
    mean, covariance = posterior_of(MEAN, cov, std)
    fit, spread = np.linalg.norm(MATRIX @ mean - Y), np.trace(MATRIX @ covariance @ MATRIX.T)

    def shares(transform, sampler):
        """Misfit of the mean, and spread in measured directions, beside the posterior's."""
        mean, covariance = drawn(process, cov, transform, sampler, grid)
        return np.linalg.norm(MATRIX @ mean - Y) / fit, np.trace(MATRIX @ covariance @ MATRIX.T) / spread

    for name, found in {
        "ddnm": shares(inverse.ddnm(problem, 4), ddpm()),
        "replacement": shares(lambda d: d, chain(inverse.replacement(problem, 1.0, 4), ddpm())),
    }.items():  # noisy measurements are fitted as if they were exact
        assert found[0] < 0.1, name
        assert found[1] < 0.01, name
    # r for a flat prior, too wide at high noise: bolder than the posterior, but aware of the noise
    misfit, width = shares(inverse.diffpir(problem, process, 1.0, 6), ddpm())
    assert 0.2 < misfit < 0.9
    assert 0.5 < width < 1.1
    # the likelihood at a point, of a strength that knows no noise level
    misfit, width = shares(lambda d: d, inverse.dps(problem, 0.3))
    assert misfit < 0.5


def test_a_constant_weight_is_exact_at_one_noise_level_only():
    """dds with weight r^2/noise_std^2 is the posterior mean of a unit prior where r is that, nowhere else."""
    process, cov = EDM(), PRIORS["unit"]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2, 1)), jnp.float32)
    problem = problem_of(3)
    weight = (1.0 / (1.0 + 1.0)) / STD**2
    gaps = {}
    for sigma in (0.3, 1.0, 3.0):
        t = jnp.full(3, sigma)
        exact = inverse.isotropic(problem, process, 1.0, 6)(denoiser(process, cov))(x, t, None)
        constant = inverse.dds(problem, weight, 6)(denoiser(process, cov))(x, t, None)
        gaps[sigma] = float(jnp.abs(exact - constant).max())
    assert gaps[1.0] < 1e-4
    assert min(gaps[0.3], gaps[3.0]) > 0.005


def test_the_map_of_red_diff_is_the_posterior_mean_of_a_gaussian():
    """For a Gaussian the mode is the mean: the fit's fixed point with a unit prior weighed noise_std^2."""
    process = EDM()
    problem = problem_of(256)
    expected = posterior_of(MEAN, PRIORS["unit"])[0]
    sampler = inverse.red_diff(problem, learning_rate=0.02, weight=STD**2 * 2.0)
    grid = jnp.linspace(
        1.0005, 1.0, 1501
    )  # at sigma = 1 a unit prior shrinks half: x - x0_hat = (x - mean) / 2
    keys = jax.random.split(jax.random.key(0), 256)
    draw = jax.jit(lambda keys: sample(keys, denoiser(process, PRIORS["unit"]), process, sampler, grid,
                                       x_init=jnp.zeros((256, 2, 2, 1))).x)  # fmt: skip
    np.testing.assert_allclose(np.asarray(draw(keys)).reshape(-1, 4).mean(axis=0), expected, atol=0.02)
