"""Random curves of grey values: monotone, unbiased, shared by the images of a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data.curves import random_curve, random_curves, to_unit

RAMP = jnp.linspace(0, 1, 257)[None]


def curves(points, n=4000):
    """Values of a ramp under n curves of so many points."""
    keys = jax.random.split(jax.random.key(0), n)
    return np.asarray(jax.vmap(lambda k: jnp.interp(RAMP[0], *random_curve(k, points)))(keys))


@pytest.mark.parametrize("points", [3, 5, 10])
def test_a_curve_rises_strictly_from_0_to_1(points):
    found = curves(points)
    assert np.all(np.diff(found, axis=1) > 0)
    np.testing.assert_allclose(found[:, [0, -1]], [[0.0, 1.0]] * len(found), atol=1e-7)


@pytest.mark.parametrize(("points", "strength"), [(3, 0.128), (5, 0.097), (10, 0.051)])
def test_strength_is_that_of_the_reference_implementation(points, strength):
    """The mean of |f(x) - x|, as over 500 curves of MONAI 1.6.1's RandHistogramShift; on average f is x."""
    found = curves(points)
    assert np.abs(found - RAMP).mean() == pytest.approx(strength, rel=0.08)
    assert np.abs(found.mean(axis=0) - RAMP[0]).max() < 0.04


def test_points_keep_the_order_in_which_they_are_drawn():
    """f_i is uniform between the moved left and the unmoved right neighbour, so E f_1 = r_2 / 2."""
    keys = jax.random.split(jax.random.key(1), 4000)
    r, f = jax.vmap(lambda k: random_curve(k, 5))(keys)
    first, second = np.asarray(f[:, 1]), np.asarray(f[:, 2])
    assert first.mean() == pytest.approx(0.25, abs=0.01)
    assert first.max() < 0.5
    assert first.max() > 0.49
    # given f_1, f_2 is uniform up to r_3
    u = (second - first) / (0.75 - first)
    np.testing.assert_allclose(np.quantile(u, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    np.testing.assert_allclose(r[0], np.linspace(0, 1, 5))


def test_a_traced_number_of_points_is_the_curve_of_that_many():
    key = jax.random.key(3)
    r, f = jax.jit(lambda n: random_curve(key, n, 10))(4)
    np.testing.assert_allclose(r[:4], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert np.all(np.asarray(r[3:]) == 1)
    assert np.all(np.asarray(f[3:]) == 1)
    assert np.all(np.diff(f[:4]) > 0)


def test_images_of_a_row_share_a_curve_and_rows_do_not():
    a = jax.random.uniform(jax.random.key(0), (6, 8, 8))
    b = a[:, ::-1]  # the same values elsewhere
    bent_a, bent_b = jax.jit(lambda a, b: random_curves(jax.random.key(1), (a, b), probability=1.0))(a, b)
    np.testing.assert_array_equal(bent_a, bent_b[:, ::-1])
    levels = jnp.broadcast_to(RAMP, (6, 257))
    (bent,) = random_curves(jax.random.key(1), (levels,), probability=1.0)
    differences = [np.abs(bent[i] - bent[j]).max() for i in range(6) for j in range(i)]
    assert min(differences) > 0.01
    assert np.all(np.argsort(np.asarray(bent_a).reshape(6, -1)) == np.argsort(np.asarray(a).reshape(6, -1)))


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_share_of_rows_is_bent_and_the_rest_is_kept_bit_for_bit(probability, share):
    images = jax.random.uniform(jax.random.key(2), (400, 4))
    (bent,) = random_curves(jax.random.key(3), (images,), probability=probability)
    changed = np.any(np.asarray(bent != images), axis=1)
    assert changed.mean() == pytest.approx(share, abs=0.08)


def test_curves_have_inverses_and_gradients():
    key = jax.random.key(5)
    r, f = random_curve(key, 6)
    x = jnp.linspace(0, 1, 101)
    np.testing.assert_allclose(jnp.interp(jnp.interp(x, r, f), f, r), x, atol=1e-5)
    flat = jnp.full((1, 9), 0.3)
    slope = jax.grad(lambda x: random_curves(key, (x,), probability=1.0)[0].sum())(flat)
    assert np.all(np.isfinite(slope))
    assert np.all(np.asarray(slope) > 0)


def test_unit_range_is_each_image_s_own_and_constants_become_0():
    images = jnp.stack([3 * RAMP[0] - 1, jnp.full(257, 7.0)])
    found = to_unit(images)
    np.testing.assert_allclose(found[0], RAMP[0], atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)
    assert np.all(np.isfinite(jax.grad(lambda x: to_unit(x).sum())(images)))


@pytest.mark.parametrize("points", [(2, 5), (6, 5), (0, 3)])
def test_numbers_of_points_that_cannot_be(points):
    with pytest.raises(ValueError, match="points"):
        random_curves(jax.random.key(0), (RAMP,), points=points)
