"""Distributions in the plane against their moments and geometry; dequantisation against its integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data import (
    MIXTURES,
    dequantize,
    grid,
    levels_of,
    points,
    requantize,
    ring,
    sample_mixture,
    three_modes,
)

_N = 40_000


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_mixture_samples_have_the_moments_of_the_mixture(name):
    weights, means, covs = (np.asarray(v, np.float64) for v in MIXTURES[name]())
    x = np.asarray(points(name)(jax.random.key(0), _N), np.float64)
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covs + means[:, :, None] * means[:, None, :])
    cov = second - np.outer(mean, mean)
    scale = np.sqrt(np.diag(cov))
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * scale.max() / np.sqrt(_N))
    np.testing.assert_allclose(np.cov(x.T), cov, atol=5 * scale.max() ** 2 * np.sqrt(2 / _N))


def test_mixture_geometry():
    assert len(ring().weights) == 8
    np.testing.assert_allclose(np.linalg.norm(ring(radius=3.0).means, axis=1), 3.0, rtol=1e-6)
    assert set(np.asarray(grid().means).ravel().tolist()) == {-4.0, -2.0, 0.0, 2.0, 4.0}
    assert len({tuple(m) for m in np.asarray(grid().means).tolist()}) == 25
    x = sample_mixture(three_modes(), jax.random.key(1), _N)
    nearest = jnp.argmin(jnp.linalg.norm(x[:, None] - three_modes().means, axis=-1), axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / _N, [0.5, 0.3, 0.2], atol=0.012)


def test_a_correlated_component_keeps_its_covariance():
    mixture = ring(1)._replace(covs=jnp.asarray([[[1.0, 0.9], [0.9, 2.0]]]))
    x = sample_mixture(mixture, jax.random.key(2), _N)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), mixture.covs[0], atol=0.06)


def test_checkerboard_is_uniform_on_its_dark_cells():
    x = np.asarray(points("checkerboard")(jax.random.key(0), _N))
    cell = np.floor(x).astype(int) + 2
    assert cell.min() == 0
    assert cell.max() == 3
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(cell.T), 1)
    assert (counts[np.indices((4, 4)).sum(0) % 2 == 1] == 0).all()
    np.testing.assert_allclose(counts[np.indices((4, 4)).sum(0) % 2 == 0] / _N, 1 / 8, atol=0.01)
    np.testing.assert_allclose((x % 1).mean(0), 0.5, atol=0.01)


def test_moons_lie_on_two_half_circles():
    x = np.asarray(points("two_moons")(jax.random.key(0), 4000))
    upper = np.abs(np.linalg.norm(x - [-0.5, -0.25], axis=1) - 1)
    lower = np.abs(np.linalg.norm(x - [0.5, 0.25], axis=1) - 1)
    assert np.minimum(upper, lower).max() < 5 * 0.05
    assert abs((upper < lower).mean() - 0.5) < 0.05
    np.testing.assert_allclose(x.mean(0), 0, atol=0.05)


def test_the_roll_grows_linearly_with_its_angle():
    x = np.asarray(points("swiss_roll")(jax.random.key(0), 4000))
    radius, angle = np.linalg.norm(x, axis=1), np.arctan2(x[:, 1], x[:, 0])
    turns = radius * 1.5 / 2 - angle / (2 * np.pi)  # a whole number, up to the noise
    assert np.abs(turns - np.round(turns)).mean() < 0.05
    assert 0.7 < radius.min() < 1.1
    assert 2.9 < radius.max() < 3.3


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name: got 'rings', allowed: one of checkerboard, grid, ring"):
        points("rings")
    with pytest.raises(ValueError, match=r"std: got 0\.0"):
        ring(std=0.0)


@pytest.mark.parametrize("levels", [2, 17, 255, 256])
def test_dequantising_stays_in_the_cell_of_its_level(levels):
    k = jnp.repeat(jnp.arange(levels), 400)
    x = 2 * k / (levels - 1) - 1
    assert (levels_of(x, levels) == k).all()
    y = dequantize(jax.random.key(0), x, levels)
    np.testing.assert_allclose(requantize(y, levels), x, atol=1e-6)
    # uniform within the cell: mean in the middle, the standard deviation width / sqrt(12)
    inside = (np.asarray(y, np.float64) + 1) * levels / 2 - np.asarray(k)
    np.testing.assert_allclose(inside.mean(), 0.5, atol=5 * 12**-0.5 / len(k) ** 0.5)
    np.testing.assert_allclose(inside.std(), 12**-0.5, rtol=0.05)


def test_the_stated_bound_is_an_equality_for_a_density_that_is_flat_in_each_cell():
    levels, probability = 4, np.array([0.1, 0.2, 0.3, 0.4])
    x = 2 * jnp.arange(4) / 3 - 1
    y = np.asarray(dequantize(jax.random.key(0), x, levels))
    density = probability[np.digitize(y, [-0.5, 0, 0.5])] / 0.5  # cells of width 2 / levels = 1/2
    np.testing.assert_allclose(-np.log2(density) + np.log2(levels / 2), -np.log2(probability), rtol=1e-12)


def test_levels_must_be_at_least_two():
    with pytest.raises(ValueError, match="levels: got 1"):
        dequantize(jax.random.key(0), jnp.zeros(3), 1)
