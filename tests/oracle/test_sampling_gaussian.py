"""Every sampler on data whose denoiser is known: N(0.7, 0.5^2) and a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes_under_test import PROCESSES

from diffax import VE, VP, Cosine, gaussian_denoiser, grids, mixture_denoiser, sample
from diffax.samplers import (
    annealed_langevin,
    annealed_step_size,
    chain,
    ddim,
    ddpm,
    dpmpp_2m,
    euler_maruyama,
    heun,
    langevin,
    posterior,
    probability_flow,
)

MEAN, STD, N = 0.7, 0.5, 20_000

SAMPLERS = {
    "ddim": (ddim(), 50),
    "ddim_eta1": (ddim(eta=1.0), 200),
    "heun": (heun(), 50),
    "euler_maruyama": (euler_maruyama(), 1000),
    "dpmpp_2m": (dpmpp_2m(), 50),
    "dpmpp_2m_sde": (dpmpp_2m(eta=1.0), 100),
    "heun_churn": (heun(churn=20.0), 50),
    "ddpm": (ddpm(), 200),
    "ddpm_large": (ddpm("large"), 400),
    "probability_flow": (probability_flow(), 1),
}


# one process of each kind is enough for the second ending
ENDINGS = [(name, "t_min") for name in PROCESSES] + [(name, "zero") for name in ("VP", "VE", "FromTable")]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("process", "final"), ENDINGS)
def test_moments_of_a_gaussian(process, final, sampler):
    process, (sampler, n) = PROCESSES[process], SAMPLERS[sampler]
    denoise = gaussian_denoiser(process, MEAN, STD**2)
    grid = grids.log_snr(process, n + (final == "zero"), final=final)
    keys = jax.random.split(jax.random.key(0), N)
    x = jax.jit(lambda keys: sample(keys, denoise, process, sampler, grid, shape=(1,)).x)(keys)
    assert abs(float(x.mean()) - MEAN) <= 0.02
    assert abs(float(x.std()) - STD) <= 0.04


@pytest.mark.parametrize("make_grid", [grids.uniform, grids.karras])
@pytest.mark.parametrize("process", ["VP", "SubVP", "VE", "RectifiedFlow", "Cosine", "FromTable"])
def test_other_grids_serve_too(process, make_grid):
    process = PROCESSES[process]
    denoise = gaussian_denoiser(process, MEAN, STD**2)
    keys = jax.random.split(jax.random.key(1), N)
    x = jax.jit(lambda k: sample(k, denoise, process, heun(), make_grid(process, 60), shape=(1,)).x)(keys)
    assert abs(float(x.mean()) - MEAN) <= 0.02
    assert abs(float(x.std()) - STD) <= 0.04


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_2m_sde"])
def test_from_a_step_of_pure_noise(sampler):
    """The cosine schedule's alpha is 0 at t = 1, not the -4e-8 that a cosine of pi / 2 rounds to."""
    process, sampler = Cosine(t_max=1.0), SAMPLERS[sampler][0]
    assert float(process.alpha(1.0)) == 0
    denoise = gaussian_denoiser(process, MEAN, STD**2)
    keys = jax.random.split(jax.random.key(1), N)
    grid = grids.uniform(process, 60)
    x = jax.jit(lambda k: sample(k, denoise, process, sampler, grid, shape=(1,)).x)(keys)
    assert abs(float(x.mean()) - MEAN) <= 0.02
    assert abs(float(x.std()) - STD) <= 0.04


WEIGHTS, MEANS, VARS = [0.2, 0.3, 0.5], [[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]], [0.04, 0.04, 0.04]


@pytest.mark.parametrize("sampler", ["ddim_eta1", "heun", "dpmpp_2m", "euler_maruyama"])
@pytest.mark.parametrize("process", ["VP", "VE", "RectifiedFlow"])
def test_weights_of_a_mixture(process, sampler):
    process, (sampler, n) = PROCESSES[process], SAMPLERS[sampler]
    denoise = mixture_denoiser(process, WEIGHTS, MEANS, VARS)
    keys = jax.random.split(jax.random.key(2), 8000)
    grid = grids.log_snr(process, n)
    x = np.asarray(jax.jit(lambda k: sample(k, denoise, process, sampler, grid, shape=(2,)).x)(keys))
    nearest = np.argmin(((x[:, None] - np.asarray(MEANS)) ** 2).sum(-1), axis=1)
    shares = np.bincount(nearest, minlength=3) / len(x)
    np.testing.assert_allclose(shares, WEIGHTS, atol=0.03)


def test_full_covariance_is_reproduced():
    cov = np.array([[1.0, 0.6], [0.6, 0.5]])
    process = VP()
    denoise = gaussian_denoiser(process, np.array([0.3, -0.2]), cov)
    keys = jax.random.split(jax.random.key(3), N)
    grid = grids.log_snr(process, 50)
    x = jax.jit(lambda k: sample(k, denoise, process, dpmpp_2m(), grid, shape=(2,)).x)(keys)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), cov, atol=0.04)


def test_predictor_corrector_improves_on_the_predictor():
    """Equal steps, VE: 60 predictor steps alone leave a bias that the corrector removes."""
    process = VE()
    denoise = mixture_denoiser(process, [0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01])
    keys = jax.random.split(jax.random.key(4), N)
    grid = grids.log_snr(process, 60)

    def width(sampler):
        x = jax.jit(lambda k: sample(k, denoise, process, sampler, grid, shape=(1,)).x)(keys)
        return float(jnp.std(jnp.abs(x)))  # 0.1 for the data

    alone = abs(width(euler_maruyama()) - 0.1)
    corrected = abs(width(chain(langevin(snr=0.16, n_steps=2), euler_maruyama())) - 0.1)
    assert corrected < 0.7 * alone


@pytest.mark.parametrize("dim", [1, 64])
def test_corrector_leaves_a_normal_in_place(dim):
    process = VP()
    denoise = gaussian_denoiser(process, 0.0, 1.0)  # p_t = N(0, I) at every t
    n = 20_000 if dim == 1 else 500
    keys = jax.random.split(jax.random.key(5), n)
    x_init = jax.random.normal(jax.random.key(6), (n, dim))
    grid = jnp.array([0.9, 0.89])
    sampler = langevin(snr=0.16, n_steps=2000)
    x = jax.jit(lambda k: sample(k, denoise, process, sampler, grid, x_init=x_init).x)(keys)
    assert abs(float(x.std()) - 1.0) <= 0.02
    assert abs(float(x.mean())) <= 0.02


def test_step_sizes_from_norms_inflate_small_dimensions():
    """The documented reason for the default: stationary density p / step, and a noise that knows its norm."""
    process, dim = VP(), 16
    denoise = gaussian_denoiser(process, 0.0, 1.0)
    keys = jax.random.split(jax.random.key(7), 1000)
    x_init = jax.random.normal(jax.random.key(8), (1000, dim))
    sampler = langevin(snr=0.05, n_steps=2000, step_size="sample")
    grid = jnp.array([0.9, 0.89])
    x = jax.jit(lambda k: sample(k, denoise, process, sampler, grid, x_init=x_init).x)(keys)
    assert float(x.var()) == pytest.approx((1.0 + 2.0 / dim) ** 2, abs=0.03)


def test_annealed_langevin_of_ncsn():
    process = VE(sigma_min=0.05, sigma_max=10.0)
    denoise = gaussian_denoiser(process, MEAN, STD**2)
    grid = grids.log_snr(process, 40, final="zero")
    sampler = annealed_langevin(annealed_step_size(process, 40, 10), n_steps=10)
    keys = jax.random.split(jax.random.key(9), N)
    out = jax.jit(lambda k: sample(k, denoise, process, sampler, grid, shape=(1,)))(keys)
    assert abs(float(out.x.mean()) - MEAN) <= 0.03
    assert abs(float(out.x.std()) - STD) <= 0.04
    assert int(out.nfe) == 401


def test_posterior_is_exact_when_x0_is_sampled():
    """With x0 drawn from its true posterior, one bridge step from any t has no discretisation error."""
    process = VP()
    noise_key = jax.random.key(10)

    def draw(x, t, cond):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        total = alpha**2 * STD**2 + sigma**2
        mean = MEAN + alpha * STD**2 / total * (x - alpha * MEAN)
        std = jnp.sqrt(STD**2 * sigma**2 / total)
        key = jax.random.fold_in(noise_key, (1e6 * t[0]).astype(int))
        return mean + std * jax.random.normal(key, x.shape)

    grid = grids.uniform(process, 3)
    keys = jax.random.split(jax.random.key(11), N)
    x = sample(keys, draw, process, posterior(), grid, shape=(1,)).x
    assert abs(float(x.mean()) - MEAN) <= 0.02
    assert abs(float(x.std()) - STD) <= 0.02
