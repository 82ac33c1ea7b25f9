"""Likelihoods against the closed form of a Gaussian and of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes_under_test import PROCESSES
from scipy import stats

from diffax import EDM, VE, VP, bits_per_dim, gaussian_denoiser, log_likelihood, mixture_denoiser

MEAN, STD = 0.7, 0.5
X = jnp.linspace(-0.8, 2.2, 16).reshape(8, 2)

CASES = {
    "VP": PROCESSES["VP"],
    "SubVP": PROCESSES["SubVP"],
    "VE50": VE(0.01, 50.0),
    "VE80": VE(0.01, 80.0),
    "EDM": EDM(),
    "RectifiedFlow": PROCESSES["RectifiedFlow"],
    "Cosine": PROCESSES["Cosine"],
    "FromTable": PROCESSES["FromTable"],
}


@pytest.mark.parametrize("process", CASES)
def test_gaussian(process):
    """With the usual prior N(0, sigma_max^2), up to 2.5 standard deviations from the mean, in one dimension.

    VE's own end point is off by mean / sigma_max = 0.014 of a standard deviation; given the data's moments
    the prior is exact, and so is the likelihood, further out.
    """
    process = CASES[process]
    denoise = gaussian_denoiser(process, MEAN, STD**2)

    @jax.jit
    def nats(x, mean, var):
        return log_likelihood(
            jax.random.key(0), denoise, process, x, trace="exact", prior_mean=mean, prior_var=var
        )

    x = jnp.linspace(MEAN - 2.5 * STD, MEAN + 2.5 * STD, 9)[:, None]
    np.testing.assert_allclose(nats(x, 0.0, 0.0), stats.norm.logpdf(x, MEAN, STD)[:, 0], atol=0.05)
    np.testing.assert_allclose(
        nats(X[:, :1], MEAN, STD**2), stats.norm.logpdf(X[:, :1], MEAN, STD)[:, 0], atol=0.012
    )


def test_mixture():
    process = VP(t_min=1e-4)
    means = np.array([[-1.0, 0.0], [1.0, 0.5]])
    denoise = mixture_denoiser(process, [0.3, 0.7], means, [0.09, 0.04])
    x = X[:, ::-1] - 0.4
    logp = jax.jit(lambda x: log_likelihood(jax.random.key(0), denoise, process, x, trace="exact"))(x)
    parts = [
        np.log(w) + stats.multivariate_normal.logpdf(x, m, v * np.eye(2))
        for w, m, v in zip([0.3, 0.7], means, [0.09, 0.04], strict=True)
    ]
    np.testing.assert_allclose(logp, np.logaddexp(*parts), atol=0.05)


def test_hutchinson_is_unbiased():
    """Correlated data, so that a single probe is noisy; within three standard errors over 400 probes."""
    process, cov = VP(), np.array([[1.0, 0.8], [0.8, 1.0]])
    denoise = gaussian_denoiser(process, np.zeros(2), cov)
    x = np.repeat(np.array([[0.5, -0.3]], np.float32), 400, axis=0)
    keys = jax.random.split(jax.random.key(1), 400)
    estimate = jax.jit(lambda x: log_likelihood(keys, denoise, process, x))(x)
    exact = stats.multivariate_normal.logpdf(x[0], np.zeros(2), cov)
    spread = float(jnp.std(estimate)) / 20.0
    assert spread > 1e-3
    assert abs(float(jnp.mean(estimate)) - exact) <= 3.0 * spread + 0.01


def test_probes_do_not_depend_on_the_batch():
    process, cov = VP(), np.array([[1.0, 0.8], [0.8, 1.0]])
    denoise = gaussian_denoiser(process, np.zeros(2), cov)

    def run(x):
        return log_likelihood(jax.random.key(2), denoise, process, x, n_probes=2)

    np.testing.assert_allclose(run(X[:4]), run(X)[:4], atol=1e-4)


def test_a_known_prior_removes_the_end_points_error():
    """At t_max = 0.5 VP's marginal is far from N(0, sigma^2): the data's moments repair it."""
    process = VP(t_max=0.5)
    denoise = gaussian_denoiser(process, MEAN, STD**2)

    def error(**prior):
        logp = log_likelihood(jax.random.key(0), denoise, process, X, trace="exact", **prior)
        return float(jnp.max(jnp.abs(logp - stats.norm.logpdf(X, MEAN, STD).sum(axis=1))))

    assert error(prior_mean=MEAN, prior_var=STD**2) < 0.05
    assert error() > 0.05


def test_bits_per_dim_of_a_discretised_gaussian():
    """A wide Gaussian on 17 levels: the entropy sum over levels, computed by integrals of its density."""
    process, std, levels = VP(t_min=1e-4), 0.5, 17
    denoise = gaussian_denoiser(process, 0.0, std**2)
    centers = 2.0 * np.arange(levels) / (levels - 1) - 1.0
    half = 1.0 / (levels - 1)
    mass = stats.norm.cdf(centers + half, 0, std) - stats.norm.cdf(centers - half, 0, std)
    x = np.repeat(centers[:, None], 32, axis=0).astype(np.float32)
    bits = jax.jit(
        lambda x: bits_per_dim(jax.random.key(0), denoise, process, x, levels=levels, trace="exact")
    )(x)
    by_level = np.asarray(bits).reshape(levels, 32).mean(axis=1)
    # dequantisation bounds the code length from above; here the gap is below a hundredth of a bit
    np.testing.assert_allclose(by_level, -np.log2(mass), atol=0.08)
    assert np.average(by_level, weights=mass) == pytest.approx(
        np.average(-np.log2(mass), weights=mass), abs=0.02
    )


@pytest.mark.parametrize(
    ("options", "field"), [({"trace": "sliced"}, "trace"), ({"n_probes": 0}, "n_probes")]
)
def test_bad_input_is_named(options, field):
    with pytest.raises(ValueError, match=field):
        log_likelihood(jax.random.key(0), lambda x, t, c: x, VP(), jnp.asarray(X), **options)
    with pytest.raises(ValueError, match="levels"):
        bits_per_dim(jax.random.key(0), lambda x, t, c: x, VP(), jnp.asarray(X), levels=1)
