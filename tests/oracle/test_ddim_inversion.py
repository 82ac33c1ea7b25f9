"""Encoding by DDIM on Gaussian data: the latents' law, the way back, and how fast both get exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import VP, Cosine, gaussian_denoiser, grids, sample
from diffax.samplers import ddim, ddim_inversion

MEAN, VARIANCE = 0.7, 0.25


def encode(process, steps, x, final="t_min"):
    denoise = gaussian_denoiser(process, MEAN, VARIANCE)
    grid = grids.log_snr(process, steps, final=final)
    return ddim_inversion(denoise, process, x, grid), denoise, grid


def exact_latent(process, x, at, end):
    """The flow of a Gaussian is the linear map between its marginals' quantiles."""

    def law(t):
        return process.alpha(t) * MEAN, jnp.sqrt(process.alpha(t) ** 2 * VARIANCE + process.sigma(t) ** 2)

    (m0, s0), (m1, s1) = law(end), law(at)
    return m1 + s1 * (x - m0) / s0


@pytest.mark.parametrize("process", [VP(), Cosine()], ids=["vp", "cosine"])
def test_latents_converge_to_the_flows_own(process, float64):
    """First order: half the step, half the error."""
    x = jnp.linspace(-1.0, 2.0, 7, dtype=jnp.float64)[:, None]
    errors = []
    for steps in (40, 80, 160):
        code, _, grid = encode(process, steps, x)
        errors.append(float(jnp.abs(code - exact_latent(process, x, grid[0], grid[-1])).max()))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rates > 0.8).all(), (errors, rates)
    assert errors[-1] < 0.1


@pytest.mark.parametrize("final", ["t_min", "zero"])
def test_the_way_back(final):
    """Decoding the code under the same denoiser gives the image back, up to the steps' error."""
    process = VP()
    x = MEAN + VARIANCE**0.5 * jax.random.normal(jax.random.key(0), (64, 3))
    code, denoise, grid = encode(process, 200, x, final)
    keys = jax.random.split(jax.random.key(1), 64)
    back = sample(keys, denoise, process, ddim(), grid, x_init=code).x
    assert float(jnp.abs(back - x).max()) < 0.05
    assert abs(float(code.std()) - 1) < 0.15


def test_rising_grids_are_refused():
    process = VP()
    with pytest.raises(ValueError, match="grid"):
        ddim_inversion(
            gaussian_denoiser(process, 0.0, 1.0), process, jnp.zeros((1, 2)), jnp.array([0.1, 0.9])
        )
