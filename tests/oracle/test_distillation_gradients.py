"""The student's whole objective against derivatives of divergences of Gaussians.

The teacher's law is N(0, 1), the student draws m + s z, the fake score and the discriminator are exact. After
noise of level sigma the laws are N(0, 1 + sigma^2) and N(m, s^2 + sigma^2), whose divergence is an integral.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from diffax.losses.distribution_matching import bin_edges
from diffax.losses.divergences import divergence
from diffax.losses.weighting import simple
from diffax.processes import EDM, times
from experiments.f_distill.method import Adversary, Critics, Method, Ratio, student_objective

START = 50.0  # noise level at which the student draws
M, S = 1.0, 0.8
SAMPLES = 400_000


def score(params, x, t, cond):
    """The student m + s z, or the exact denoiser of what it draws."""
    if "draws" in params:
        return params["draws"][0] + params["draws"][1] * x / START, {}
    mean, std = params["law"]
    var = std**2
    return (mean * t[:, None] ** 2 + var * x) / (var + t[:, None] ** 2), {}


def discriminate(params, x, t, features):
    """log p / q, exactly."""
    mean, std = params
    own = -0.5 * (x[:, 0] - mean) ** 2 / (std**2 + t**2) - 0.5 * jnp.log(std**2 + t**2)
    return (-0.5 * x[:, 0] ** 2 / (1 + t**2) - 0.5 * jnp.log(1 + t**2) - own)[:, None]


def make(name, sigma):
    return Method(
        process=EDM(),
        teacher=lambda params, x, t, cond: (x / (1 + t[:, None] ** 2), {}),
        score=score,
        discriminate=discriminate,
        divergence=divergence(name),
        base_weight=lambda x, teacher_x0, level: 1.0 / level**2,  # makes of x0s the scores
        times=times.discrete([sigma]),
        weighting=simple("x0"),
        grid=jnp.asarray([START, 0.0]),
        ratio=Ratio(50.0, 1e-9, 1e9, bin_edges(0.01, 10.0, 1), 0.0),
        adversary=Adversary(0.0, 1.0, "input", "exact", 0.0),
        field="x",
    )


def gradient(name, sigma):
    """Of the objective in (m, s), over many samples."""
    law = jnp.asarray([M, S])
    critics, real = Critics({"law": law}, law), jnp.zeros((SAMPLES, 1))
    objective = lambda p: student_objective(  # noqa: E731
        make(name, sigma), p, critics, None, jnp.ones(1), real, None, jax.random.key(0)
    )[0]
    return np.asarray(jax.jit(jax.grad(objective))({"draws": law})["draws"], np.float64)


def integral(name, sigma):
    """Derivatives in (m, s) of D_f between the noised laws, by quadrature and central differences."""
    f = divergence(name).f

    def distance(m, s):
        own = stats.norm(m, np.hypot(s, sigma))
        teacher = stats.norm(0, np.hypot(1, sigma))
        grid = np.linspace(-14, 15, 40_001)
        ratio = np.exp(teacher.logpdf(grid) - own.logpdf(grid))
        with jax.enable_x64():
            values = own.pdf(grid) * np.asarray(f(jnp.asarray(ratio)))
        return integrate.simpson(values, x=grid)

    h = 1e-4
    return np.asarray(
        [
            (distance(M + h, S) - distance(M - h, S)) / (2 * h),
            (distance(M, S + h) - distance(M, S - h)) / (2 * h),
        ]
    )


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_reverse_kl_descends_its_own_gradient(sigma):
    v, w = S**2 + sigma**2, 1 + sigma**2
    closed = np.asarray([M / w, S / w - S / v])
    np.testing.assert_allclose(integral("rkl", sigma), closed, atol=1e-5)
    np.testing.assert_allclose(gradient("rkl", sigma), closed, atol=0.004)


@pytest.mark.parametrize("name", ["js", "sf", "sh", "kl", "jf"])
def test_every_divergence_descends_along_its_gradient(name):
    """Up to the constant that the normalisation takes out: the direction in the plane of (m, s)."""
    exact, found = integral(name, 1.0), gradient(name, 1.0)
    np.testing.assert_allclose(found / np.linalg.norm(found), exact / np.linalg.norm(exact), atol=0.01)
    assert np.linalg.norm(found) > 0.1


def test_the_directions_differ():
    """So that the test above could tell one divergence from another."""
    angles = sorted(np.arctan2(*integral(name, 1.0)[::-1]) for name in ("rkl", "sf", "js", "sh", "kl"))
    assert np.diff(angles).min() > 0.02
