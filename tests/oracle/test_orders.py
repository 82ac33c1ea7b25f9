"""Orders of convergence, in double precision, against a sampler that shares no code with the tested ones.

On Gaussian data the probability flow keeps each sample's quantile: x(t_min) is known in closed form.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes_under_test import PROCESSES

from diffax import FromTable, gaussian_denoiser, grids, mixture_denoiser, sample
from diffax.samplers import ddim, dpmpp_2m, heun, probability_flow

MEAN, STD = 0.7, 0.5
ORDERS = {"ddim": (ddim(), 0.9), "heun": (heun(), 1.8), "dpmpp_2m": (dpmpp_2m(), 1.8)}

pytestmark = pytest.mark.usefixtures("float64")


def exact_flow(process, x):
    """The quantile-preserving map from t_max to t_min."""

    def moments(t):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        return alpha * MEAN, np.sqrt(alpha**2 * STD**2 + sigma**2)

    (m1, s1), (m0, s0) = moments(process.t_max), moments(process.t_min)
    return m0 + s0 * (x - m1) / s1


@pytest.mark.parametrize("sampler", ORDERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_order(process, sampler):
    process, (sampler, order) = PROCESSES[process], ORDERS[sampler]
    denoise = gaussian_denoiser(process, MEAN, STD**2)
    x_init = float(process.sigma(process.t_max)) * jnp.linspace(-2.0, 2.0, 9)[:, None]
    keys = jax.random.split(jax.random.key(0), 9)

    def error(n):
        x = sample(keys, denoise, process, sampler, grids.log_snr(process, n), x_init=x_init).x
        assert x.dtype == jnp.float64
        return float(jnp.max(jnp.abs(x - exact_flow(process, x_init))))

    assert np.log2(error(32) / error(64)) >= order


@pytest.mark.parametrize("process", PROCESSES)
def test_adaptive_solver_meets_its_tolerance(process):
    process = PROCESSES[process]
    denoise = gaussian_denoiser(process, MEAN, STD**2)
    x_init = float(process.sigma(process.t_max)) * jnp.linspace(-2.0, 2.0, 9)[:, None]
    keys = jax.random.split(jax.random.key(0), 9)
    out = sample(
        keys, denoise, process, probability_flow(1e-8, 1e-8), grids.uniform(process, 1), x_init=x_init
    )
    # a table's drift has a kink at each of its thousand entries, which a step size must find one by one
    atol = 5e-4 if isinstance(process, FromTable) else 1e-6
    np.testing.assert_allclose(out.x, exact_flow(process, x_init), atol=atol)
    assert 50 < int(out.nfe) < 40_000


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_second_order_on_a_curved_flow(sampler):
    """A mixture: no closed form, so against the adaptive solver at 1e-10."""
    process, (sampler, order) = PROCESSES["VP"], ORDERS[sampler]
    denoise = mixture_denoiser(process, [0.4, 0.6], [[-1.0], [1.0]], [0.1, 0.2])
    x_init = jnp.linspace(-2.0, 2.0, 11)[:, None]
    keys = jax.random.split(jax.random.key(0), 11)
    ends = grids.uniform(process, 1)
    truth = sample(keys, denoise, process, probability_flow(1e-10, 1e-10), ends, x_init=x_init).x

    def error(n):
        x = sample(keys, denoise, process, sampler, grids.log_snr(process, n), x_init=x_init).x
        return float(jnp.mean(jnp.abs(x - truth)))

    assert np.log2(error(64) / error(128)) >= order
