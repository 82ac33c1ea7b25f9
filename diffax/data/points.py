"""Distributions in the plane, for experiments whose every sample can be seen.

The Gaussian mixtures are values ``(weights, means, covs)``, so that scores, likelihoods and mode counts
are known exactly; checkerboard, moons and roll are samplers only. Each has a scale of about 1 to 4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffax.checks import require, require_number, require_one_of

PointSampler = Callable[[Key[Array, ""], int], Float[Array, "n 2"]]


class Mixture(NamedTuple):
    """``p(x) = sum_k weights[k] N(x; means[k], covs[k])``."""

    weights: Float[Array, "k"]
    means: Float[Array, "k d"]
    covs: Float[Array, "k d d"]


def _isotropic(weights: np.ndarray, means: np.ndarray, std: float) -> Mixture:
    require_number("std", std, 0.0, float("inf"), "positive and finite")
    covs = np.broadcast_to(std**2 * np.eye(2), (len(means), 2, 2))
    return Mixture(*(jnp.asarray(v, jnp.float32) for v in (weights, means, covs)))


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.1) -> Mixture:
    """Equal Gaussians at the angles 2 pi k / modes of a circle."""
    require(modes >= 1, "modes", modes, "at least 1")
    angle = 2 * np.pi * np.arange(modes) / modes
    means = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return _isotropic(np.full(modes, 1 / modes), means, std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """side x side equal Gaussians, centred on 0: 25 at -4, -2, 0, 2, 4 by default."""
    require(side >= 1, "side", side, "at least 1")
    axis = spacing * (np.arange(side) - (side - 1) / 2)
    means = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return _isotropic(np.full(side**2, 1 / side**2), means, std)


def three_modes(std: float = 0.2) -> Mixture:
    """Weights 0.5, 0.3 and 0.2 at the corners of a triangle of radius 2: shows which modes a method drops."""
    return ring(3, 2.0, std)._replace(weights=jnp.asarray([0.5, 0.3, 0.2], jnp.float32))


def sample_mixture(mixture: Mixture, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
    """n independent draws: a component by its weight, then ``means[k] + chol(covs[k]) z``."""
    component_key, noise_key = jax.random.split(key)
    k = jax.random.choice(component_key, len(mixture.weights), (n,), p=mixture.weights)
    noise = jax.random.normal(noise_key, (n, mixture.means.shape[1]))
    return mixture.means[k] + jnp.einsum("nij,nj->ni", jnp.linalg.cholesky(mixture.covs)[k], noise)


def checkerboard(key: Key[Array, ""], n: int) -> Float[Array, "n 2"]:
    """Uniform on the 8 cells (i, j), i + j even, of a 4 x 4 board on [-2, 2]^2: density 1/8 there."""
    column_key, half_key, inside_key = jax.random.split(key, 3)
    column = jax.random.randint(column_key, (n,), 0, 4)
    row = 2 * jax.random.randint(half_key, (n,), 0, 2) + column % 2
    return jnp.stack([column, row], 1) + jax.random.uniform(inside_key, (n, 2)) - 2


def two_moons(key: Key[Array, ""], n: int, std: float = 0.05) -> Float[Array, "n 2"]:
    """Two half circles of radius 1 that reach into each other, centred on 0, blurred by N(0, std^2).

    For an angle a ~ U[0, pi]: ``(cos a - 1/2, sin a - 1/4)`` or, mirrored, ``(1/2 - cos a, 1/4 - sin a)``.
    """
    angle_key, moon_key, noise_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, (n,), maxval=jnp.pi)
    side = jax.random.rademacher(moon_key, (n, 1), jnp.float32)
    moon = jnp.stack([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], 1)
    return side * moon + std * jax.random.normal(noise_key, (n, 2))


def swiss_roll(key: Key[Array, ""], n: int, std: float = 0.05) -> Float[Array, "n 2"]:
    """The spiral ``r (cos a, sin a)``, blurred by N(0, std^2).

    a ~ U[1.5 pi, 4.5 pi] and ``r = a / (1.5 pi)``, from 1 to 3.
    """
    angle_key, noise_key = jax.random.split(key)
    angle = jnp.pi * jax.random.uniform(angle_key, (n, 1), minval=1.5, maxval=4.5)
    spiral = angle / (1.5 * jnp.pi) * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1)
    return spiral + std * jax.random.normal(noise_key, (n, 2))


MIXTURES: dict[str, Callable[[], Mixture]] = {"ring": ring, "grid": grid, "three_modes": three_modes}
_SHAPES: dict[str, PointSampler] = {
    "checkerboard": checkerboard,
    "two_moons": two_moons,
    "swiss_roll": swiss_roll,
}


def points(name: str) -> PointSampler:
    """The sampler ``(key, n) -> Float[Array, "n 2"]`` of a distribution by its name."""
    require_one_of("name", name, (*MIXTURES, *_SHAPES))
    if name in _SHAPES:
        return _SHAPES[name]
    mixture = MIXTURES[name]()
    return lambda key, n: sample_mixture(mixture, key, n)
