"""Particles on a ring of eight Gaussians: which divergences leave the mode where all of them start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data.points import ring, sample_mixture
from diffax.losses.divergences import Divergence, divergence
from experiments.f_distill.particles import Study, measure, run

RING = ring()


def spread(rule, seed, **changes):
    points = run(Study(**changes), rule, RING, jax.random.key(seed))
    return measure(np.asarray(points), RING)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_covering_divergences_fill_the_ring_and_seeking_ones_do_not(seed):
    names = ("kl", "js", "rkl", "sf")
    found = {name: spread(divergence(name), seed, particles=400) for name in names}
    assert found["kl"].modes == 8
    assert found["kl"].total_variation <= 0.30
    assert found["js"].modes >= 7
    assert found["js"].total_variation <= 0.40
    assert found["rkl"].modes <= 3
    assert found["rkl"].total_variation >= 0.70
    assert found["sf"].modes <= 2
    distances = [found[name].total_variation for name in names]
    assert distances == sorted(distances)
    assert min(value.high_quality for value in found.values()) > 0.7


def test_an_inverted_ratio_makes_the_forward_kl_seek_modes():
    """The weight 1 / r in place of r: the mistake that the study is to show."""
    found = spread(Divergence(divergence("kl").f, lambda r: 1 / r), 0, steps=1000)
    assert found.modes <= 2
    assert found.total_variation > 0.8


def test_measure_of_the_ring_itself_and_of_one_mode():
    real = measure(sample_mixture(RING, jax.random.key(0), 4000), RING)
    assert real.modes == 8
    assert real.total_variation < 0.03
    assert real.high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.01)
    assert measure(jnp.tile(RING.means[:1], (50, 1)), RING) == (1, pytest.approx(7 / 8), 1.0)
