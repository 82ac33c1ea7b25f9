"""Cartesian MRI: adjoints, projections, closed-form transforms, and masks that sample what they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.operators import dot_test, real_images
from diffax.operators.mri import (
    birdcage_maps,
    cartesian_mask,
    cartesian_mri,
    poisson_disc,
    true_acceleration,
)

KEY = jax.random.key(5)
KINDS = ("uniform1d", "equispaced1d", "gaussian1d", "uniform2d", "gaussian2d", "poisson2d")
gap_of = jax.jit(dot_test)


def image(shape, seed=0):
    generator = np.random.default_rng(seed)
    return jnp.asarray(generator.normal(size=shape) + 1j * generator.normal(size=shape), jnp.complex64)


@pytest.mark.parametrize(("shape", "coils"), [((8, 6, 2), None), ((7, 9, 1), 3)])
def test_dot_test_for_complex_and_real_images(shape, coils):
    mask = cartesian_mask(shape, "uniform2d", 2.0, centre=0.2)
    operator = cartesian_mri(mask, shape, coils and birdcage_maps(coils, shape))
    assert operator.out_shape == (shape if coils is None else (coils, *shape))
    assert gap_of(operator, KEY) <= 1e-6
    real = real_images(operator)
    assert real.adjoint(image(operator.out_shape)).dtype == jnp.float32
    assert gap_of(real, KEY) <= 1e-6


@jax.jit
def matrices(operator):
    """The matrices of an operator and its adjoint, by applying them to each unit image."""
    tables = []
    for function, shape in ((operator.forward, operator.in_shape), (operator.adjoint, operator.out_shape)):
        size = math.prod(shape)
        units = jnp.eye(size, dtype=jnp.complex64).reshape(-1, *shape)
        tables.append(jax.vmap(function)(units).reshape(size, -1).T)
    return tables


@pytest.mark.parametrize("shape", [(4, 6, 1), (5, 3, 2)])
@pytest.mark.parametrize("coils", [None, 3])
def test_adjoint_is_the_conjugate_transpose_and_the_norm_at_most_one(shape, coils):
    mask = np.random.default_rng(2).random(shape) < 0.7
    mask[shape[0] // 2, shape[1] // 2] = True
    operator = cartesian_mri(mask, shape, coils and birdcage_maps(coils, shape))
    forward, adjoint = (np.asarray(a) for a in matrices(operator))
    np.testing.assert_allclose(adjoint, forward.conj().T, atol=1e-6)
    assert np.linalg.norm(forward, 2) <= 1 + 1e-5


def test_tables_for_each_slice():
    shape = (6, 5, 3)
    masks = np.random.default_rng(1).random(shape) < 0.5
    maps = birdcage_maps(2, shape)[..., None] * np.array([1, 0.5j, -1], np.complex64)
    operator = cartesian_mri(jnp.asarray(masks), shape, jnp.asarray(maps))
    x = image(shape)
    for s in range(3):
        single = cartesian_mri(masks[..., s], (6, 5, 1), maps[..., s])
        np.testing.assert_allclose(operator(x)[..., s], single(x[..., s, None])[..., 0], atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6, 2), (7, 9, 1)])
def test_normal_is_the_projection_on_the_mask(shape):
    mask = cartesian_mask(shape, "uniform1d", 2.0, centre=0.2)
    operator, whole = cartesian_mri(mask, shape), cartesian_mri(np.ones(shape[:2], bool), shape)
    x = image(shape)
    np.testing.assert_allclose(whole.adjoint(whole(x)), x, atol=1e-6)
    np.testing.assert_allclose(operator(x), mask[..., None] * whole(x), atol=1e-6)
    once = operator.normal(x)
    np.testing.assert_allclose(operator.normal(once), once, atol=1e-6)
    np.testing.assert_allclose(once, whole.adjoint(mask[..., None] * whole(x)), atol=1e-6)
    sense = cartesian_mri(np.ones(shape[:2]), shape, birdcage_maps(4, shape))
    np.testing.assert_allclose(sense.normal(x), x, atol=1e-6)  # the maps' squares sum to 1


@pytest.mark.parametrize("shape", [(32, 32), (31, 26)])
def test_a_gaussian_becomes_a_gaussian_about_the_origin(shape):
    """In the continuum exp(-r^2 / 2 s^2) becomes 2 pi s^2 exp(-2 pi^2 s^2 f^2), f = k / n."""
    s = 2.5
    y, x = (np.arange(n) - n // 2 for n in shape)
    picture = np.exp(-(y[:, None] ** 2 + x**2) / (2 * s**2))
    squares = (y[:, None] / shape[0]) ** 2 + (x / shape[1]) ** 2
    expected = 2 * np.pi * s**2 * np.exp(-2 * np.pi**2 * s**2 * squares)
    got = cartesian_mri(np.ones(shape), (*shape, 1))(jnp.asarray(picture[..., None], jnp.complex64))
    unnormalised = np.asarray(got[..., 0]) * np.sqrt(np.prod(shape))
    np.testing.assert_allclose(unnormalised, expected, atol=1e-4)
    assert unnormalised[shape[0] // 2, shape[1] // 2].real == pytest.approx(picture.sum(), rel=1e-5)


def test_gradient_goes_through_the_adjoint():
    shape = (8, 6, 2)
    operator = cartesian_mri(cartesian_mask(shape, "gaussian2d", 2.0), shape, birdcage_maps(3, shape))
    real, y = real_images(operator), operator(image(shape))
    x = image(shape, 1).real
    got = jax.jit(jax.grad(lambda x: 0.5 * (jnp.abs(real(x) - y) ** 2).sum()))(x)
    np.testing.assert_allclose(got, jax.jit(lambda x: real.adjoint(real(x) - y))(x), atol=1e-5)


def test_birdcage_maps():
    maps = birdcage_maps(6, (16, 12, 4))
    assert maps.shape == (6, 16, 12)
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)
    fine = birdcage_maps(6, (160, 120))
    assert np.abs(np.diff(fine, axis=1)).max() < 0.03  # smooth
    peaks = [np.unravel_index(np.abs(m).argmax(), m.shape) for m in maps]
    assert len(set(peaks)) == 6  # each sees its own side
    with pytest.raises(ValueError, match="n_coils: got 0, allowed: at least 1"):
        birdcage_maps(0, (4, 4))


# --- masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "acceleration"), [((64, 96), 4.0), ((65, 75), 2.5), ((32, 32), 1.0)])
def test_masks_have_the_acceleration_and_the_centre_they_promise(kind, shape, acceleration):
    mask = cartesian_mask(shape, kind, acceleration, centre=0.1, seed=3)
    assert mask.shape == shape
    assert mask.dtype == bool
    assert true_acceleration(mask) == pytest.approx(acceleration, rel=0.02)
    widths = [round(0.1 * n) for n in shape]
    block = [slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(shape, widths, strict=True)]
    assert mask[block[0], block[1]].all()
    assert mask[shape[0] // 2, shape[1] // 2]
    np.testing.assert_array_equal(mask, cartesian_mask(shape, kind, acceleration, centre=0.1, seed=3))
    if kind.endswith("1d"):
        assert (mask == mask[:1]).all()  # whole lines
        assert mask[0].sum() == round(shape[1] / acceleration)
    else:
        assert mask.sum() == round(mask.size / acceleration)
    if acceleration > 1:
        assert (mask != cartesian_mask(shape, kind, acceleration, centre=0.1, seed=4)).any()


def test_densities_of_the_kinds():
    def density(kind):
        masks = [cartesian_mask((48, 48), kind, 4.0, centre=0.0, seed=s) for s in range(5)]
        return np.mean(masks, axis=0)

    for kind in ("gaussian1d", "gaussian2d", "poisson2d"):
        found = density(kind)
        assert found[12:36, 12:36].mean() > 1.5 * found.mean(), kind
    for kind in ("uniform1d", "uniform2d"):
        assert density(kind)[12:36, 12:36].mean() == pytest.approx(0.25, abs=0.06), kind
    gaps = np.diff(np.flatnonzero(cartesian_mask((8, 128), "equispaced1d", 4.0, centre=0.0)[0]))
    assert set(gaps) <= {3, 4, 5}


def test_poisson_discs_keep_their_distances():
    free = np.ones((48, 40), bool)
    free[20:28, 18:22] = False
    order = np.random.default_rng(0).permutation(np.flatnonzero(free))
    taken = poisson_disc(free, 1.3, order)
    assert not taken[~free].any()
    places = np.argwhere(taken) - [24, 20]
    radii = 1.3 * (1 + 4 * np.hypot(places[:, 0] / 24, places[:, 1] / 20))
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 1e6 * np.eye(len(places))
    assert (apart >= np.minimum(radii[:, None], radii)).all()
    # and no more fit in: every free place lies within the distance of a taken one
    others = np.argwhere(free & ~taken) - [24, 20]
    near = np.hypot(*(others[:, None] - places[None]).transpose(2, 0, 1)) < radii
    assert near.any(1).all()
    # the mask of a given acceleration is such a set, less a few
    mask = cartesian_mask((48, 48), "poisson2d", 6.0, centre=0.1)
    rim = mask.copy()
    rim[6:-6, 6:-6] = False
    assert not (rim[1:] & rim[:-1]).any()
    assert not (rim[:, 1:] & rim[:, :-1]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"acceleration": 0.5}, r"acceleration: got 0.5, allowed: 1 to 64"),
        ({"acceleration": float("nan")}, r"acceleration: got nan, allowed: 1 to 64"),
        ({"acceleration": 65.0}, r"acceleration: got 65.0, allowed: 1 to 64"),
        ({"centre": 0.3}, r"centre: got 0.3, allowed: a smaller share: it takes 19 of the 16 samples"),
        ({"centre": 1.5}, r"centre: got 1.5, allowed: a share in \[0, 1\]"),
        ({"kind": "radial"}, r"kind: got 'radial', allowed: one of equispaced1d, gaussian1d, gaussian2d, p"),
        ({"shape": (64,)}, r"shape: got \(64,\), allowed: \(rows, columns"),
    ],
)
def test_masks_refuse_and_name(settings, message):
    with pytest.raises(ValueError, match=message):
        cartesian_mask(**{"shape": (32, 64), "kind": "uniform1d", "acceleration": 4.0, **settings})


def test_operator_refuses_and_names():
    with pytest.raises(ValueError, match=r"mask: shape: got \(4, 5\), allowed: \(5, 4\) or \(5, 4, 2\)"):
        cartesian_mri(np.ones((4, 5)), (5, 4, 2))
    with pytest.raises(ValueError, match=r"coils: shape: got \(3, 4, 5\), allowed: \(coils, \*\(5, 4\)\)"):
        cartesian_mri(np.ones((5, 4)), (5, 4, 2), np.ones((3, 4, 5), np.complex64))
    with pytest.raises(ValueError, match="mask: sampled places: got 0"):
        true_acceleration(np.zeros((3, 3), bool))
