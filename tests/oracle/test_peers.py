"""Step for step agreement with another library's schedulers, on numbers that it produced (see peers/)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import EDM, FromTable, grids, mixture_denoiser, tables
from diffax.samplers import StepContext, ddim, ddpm, dpmpp_2m, heun

PEER = json.loads((Path(__file__).parent / "peers" / "diffusers_trajectories.json").read_text())
NOISE = np.array(PEER["noise"])

pytestmark = pytest.mark.usefixtures("float64")


class GivenNoise(StepContext):
    """A step whose noise is the peer's: passed in place of keys."""

    def noise(self, x):
        return self.keys


def walk(sampler, process, grid, start):
    """Every point of a trajectory, by the sampler's own steps on the stored noise."""
    denoise = mixture_denoiser(process, PEER["weights"], PEER["means"], PEER["variances"])

    def estimate(x, t):
        return denoise(x, jnp.broadcast_to(t, x.shape[:1]), None)

    @jax.jit
    def step(noise, t, s, x, carry):
        return sampler.step(GivenNoise(estimate, process, noise, t, s, 20), x, carry)

    x, path = jnp.asarray(start), [start]
    carry = sampler.init(x)
    for i in range(20):
        x, carry = step(jnp.asarray(NOISE[i]), grid[i], grid[i + 1], x, carry)
        path.append(x)
    return np.stack(path)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("ddim", ddim()), ("ddpm", ddpm()), ("dpmpp_2m", dpmpp_2m()), ("dpmpp_2m_sde", dpmpp_2m(eta=1.0))],
)
def test_variance_preserving_schedulers(name, sampler):
    process = FromTable(tables.linear(1000))
    theirs = PEER["trajectories"][name]
    grid = grids.from_indices(process, theirs["timesteps"])
    np.testing.assert_allclose(grid, grids.trailing(process, 20), atol=1e-12)
    path = np.array(theirs["path"])
    np.testing.assert_allclose(walk(sampler, process, grid, path[0]), path, atol=1e-4)


def test_heun_in_the_variance_exploding_scale():
    theirs = PEER["trajectories"]["heun"]
    process = EDM(t_min=0.005, t_max=200.0)
    path = np.array(theirs["path"])
    ours = walk(heun(), process, jnp.asarray(theirs["levels"]), path[0])
    np.testing.assert_allclose(ours, path, atol=1e-4)


def test_karras_levels():
    """The same ramp between the peer's own ends (its levels are stored in float32)."""
    levels = np.array(PEER["trajectories"]["heun"]["levels"])
    process = EDM(t_min=levels[-2], t_max=levels[0])
    np.testing.assert_allclose(grids.karras(process, 20, final="zero"), levels, rtol=1e-5)
