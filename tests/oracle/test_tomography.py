"""Projectors and filtered back-projection against closed forms, and against Joseph's matrix."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle.ellipses import ONE, SHEPP_LOGAN, joseph_matrix, line_integrals, raster, sinogram

from diffax.inverse import fbp
from diffax.inverse.fbp import WINDOWS
from diffax.operators import ParallelBeam, dot_test, fan_beam, parallel_beam

apply = jax.jit(lambda operator, x: operator(x))
both = jax.jit(lambda operator, x, y: (operator(x), operator.adjoint(y)))
RNG = np.random.default_rng(0)

EVEN = np.arange(8) * np.pi / 8
EXACT = np.deg2rad([0, 45, 90, 135, 180, 225, 270, -45, -90, -135])
# shape, angles, detectors, the rest
CASES = {
    "five-slices": ((24, 24, 5), EVEN, 35, {}),
    "exact-angles": ((24, 24, 2), EXACT, 35, {}),
    "truncated": ((24, 24, 1), EVEN, 15, {}),
    "single-view": ((24, 24, 1), [0.3], 35, {}),
    "random-angles": ((33, 33, 5), RNG.uniform(-np.pi, np.pi, 13), 48, {}),
    "wide": ((17, 40, 1), RNG.uniform(-9, 9, 11), 50, {"offset": -2.3}),
    "tall-fine-bins": ((40, 27, 3), RNG.uniform(-9, 9, 11), 70, {"spacing": 0.7, "pixel": 1.3}),
    "coarse-bins": ((20, 20, 2), EVEN, 9, {"spacing": 3.5, "offset": 0.4}),
    "finest-bins": ((20, 20, 1), [0.2, 1.3], 295, {"spacing": 0.1}),
    "offset": ((20, 21, 1), EVEN, 22, {"offset": 4.25, "pixel": 0.5, "spacing": 0.5}),
    "one-pixel": ((1, 1, 1), [0.0, 1.0], 1, {}),
}
TABLED = ("exact-angles", "random-angles", "tall-fine-bins", "coarse-bins")
FANS = {
    "flat": ((24, 24, 1), EVEN * 2, 40, {"source_distance": 40.0, "detector_distance": 30.0}),
    "near": ((24, 17, 3), EXACT, 31, {"source_distance": 18.0, "detector_distance": 0.0, "offset": 1.3}),
    "magnified": (
        (9, 24, 2),
        [0.0, 1.2],
        300,
        {"source_distance": 60.0, "detector_distance": 500.0, "spacing": 0.4, "pixel": 1.2},
    ),
    "coarse": ((17, 18, 1), EVEN, 9, {"source_distance": 30.0, "detector_distance": 20.0, "spacing": 6.0}),
}


def relative(found, expected):
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def bins_at(detectors, spacing=1.0, offset=0.0, **_):
    return (np.arange(detectors) - (detectors - 1) / 2) * spacing + offset


def against_the_matrix(operator, theta, s, pixel):
    """Both directions agree with the dense matrix, and with one another, within rounding."""
    matrix = joseph_matrix(operator.in_shape, theta, s, pixel).reshape(
        operator.out_shape[:2] + operator.in_shape[:2]
    )
    x = RNG.uniform(size=operator.in_shape).astype(np.float32)
    y = RNG.uniform(size=operator.out_shape).astype(np.float32)
    forward, back = (np.asarray(z, np.float64) for z in both(operator, x, y))
    assert relative(forward, np.einsum("vdrc,rcs->vds", matrix, x)) <= 1e-6
    assert relative(back, np.einsum("vdrc,vds->rcs", matrix, y)) <= 1e-6
    # the dot test, from what is already here
    gap = abs(np.vdot(forward, y) - np.vdot(x, back))
    assert gap <= 1e-6 * np.linalg.norm(forward) * np.linalg.norm(y)


@pytest.mark.parametrize(("case", "tables"), [*((c, False) for c in CASES), *((c, True) for c in TABLED)])
def test_parallel_beam_is_josephs_matrix(case, tables):
    shape, angles, detectors, rest = CASES[case]
    operator = parallel_beam(shape, np.asarray(angles), detectors, tables=tables, **rest)
    theta, s = np.broadcast_arrays(np.asarray(angles)[:, None], bins_at(detectors, **rest))
    against_the_matrix(operator, theta, s, rest.get("pixel", 1.0))


@pytest.mark.parametrize(
    ("case", "curved"), [*((c, False) for c in FANS), ("near", True), ("magnified", True)]
)
def test_fan_beam_is_josephs_matrix(case, curved):
    shape, angles, detectors, rest = FANS[case]
    operator = fan_beam(shape, np.asarray(angles), detectors, curved=curved, **rest)
    u = bins_at(detectors, **rest) / (rest["source_distance"] + rest["detector_distance"])
    gamma = u if curved else np.arctan(u)
    theta = np.asarray(angles)[:, None] - gamma
    s = np.broadcast_to(rest["source_distance"] * np.sin(gamma), theta.shape)
    against_the_matrix(operator, theta, s, rest.get("pixel", 1.0))


def test_shepp_logan():
    angles = np.arange(8) * np.pi / 8
    x = jnp.asarray(raster(SHEPP_LOGAN, 256)[..., None], jnp.float32)
    found = apply(parallel_beam((256, 256, 1), angles, 363), x)
    assert relative(found[..., 0], sinogram(SHEPP_LOGAN, angles, 256, 363)) <= 0.0075


def test_first_order_and_mass():
    """The error of one ellipse halves as pixels halve; every view holds the image's mass."""
    angles, errors = np.arange(6) * np.pi / 6 + 0.1, []
    for size in (32, 64, 128):
        image, bins = raster(ONE, size), int(np.ceil(size * 2**0.5))
        found = apply(parallel_beam((size, size, 1), angles, bins), image[..., None].astype(np.float32))
        errors.append(relative(found[..., 0], sinogram(ONE, angles, size, bins)))
        np.testing.assert_allclose(found.sum((1, 2)), image.sum(), rtol=0.1 / size)
    assert errors[2] <= 0.006
    assert all(1.6 <= coarse / fine <= 2.5 for coarse, fine in pairwise(errors)), errors


def test_a_full_turn_mirrors():
    angles = np.array([0.0, 0.4, 0.7, np.pi / 2, 2.0])
    x = RNG.uniform(size=(31, 24, 2)).astype(np.float32)
    here = apply(parallel_beam(x.shape, angles, 45), x)
    there = apply(parallel_beam(x.shape, angles + np.pi, 45), x)
    assert relative(there[:, ::-1], np.asarray(here)) <= 1e-5


@pytest.mark.parametrize("fan", [False, True], ids=["parallel", "fan"])
def test_conventions_by_a_blob(fan):
    """One pixel at row r, column c casts its shadow at x cos + y sin, x to the right and y up."""
    shape, row, column, pixel, offset = (40, 60, 3), 7, 44, 0.5, 1.25
    x, y = (column - 29.5) * pixel, (19.5 - row) * pixel
    angles, bins = np.array([0.0, 0.5, np.pi / 2, 2.5, -0.6]), 401
    options = {"spacing": 0.1, "offset": offset, "pixel": pixel}
    image = np.zeros(shape, np.float32)
    image[row, column, 1] = 1.0
    expected = x * np.cos(angles) + y * np.sin(angles)
    if fan:
        far = {"source_distance": 50.0, "detector_distance": 25.0}
        operator = fan_beam(shape, angles, bins, **far, **options)
        expected = expected * 75.0 / (50.0 - x * np.sin(angles) + y * np.cos(angles))
    else:
        operator = parallel_beam(shape, angles, bins, **options)
    found = np.asarray(apply(operator, image))
    assert not found[..., [0, 2]].any()
    found = found[..., 1]
    middle = (found * bins_at(bins, 0.1, offset)).sum(1) / found.sum(1)
    np.testing.assert_allclose(middle, expected, atol=0.02)
    if not fan:
        # the mass of a pixel is its area
        np.testing.assert_allclose(found.sum(1) * 0.1, pixel**2, rtol=2e-2)


@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
def test_fan_beam_of_an_ellipse(curved):
    """Line integrals along the rays between source and bins; all lengths in another unit than the pixel."""
    size, bins, unit = 128, 130, 0.25
    options = {"source_distance": 200 * unit, "detector_distance": 100 * unit}
    angles = np.linspace(0, 2 * np.pi, 7, endpoint=False)
    operator = fan_beam(
        (size, size, 1), angles, bins, spacing=1.5 * unit, pixel=unit, curved=curved, **options
    )
    found = apply(operator, raster(ONE, size)[..., None].astype(np.float32))[..., 0]
    fine = 1.5 * ((np.arange(bins * 8) + 0.5) / 8 - bins / 2)  # a pixel wide at the axis
    gamma = fine / 300 if curved else np.arctan(fine / 300)
    s = 200 * np.sin(gamma) / (size / 2)
    truth = line_integrals(ONE, angles[:, None] - gamma, s) * size / 2 * unit
    print(relative(found, truth.reshape(7, bins, 8).mean(2)))
    assert relative(found, truth.reshape(7, bins, 8).mean(2)) <= 0.006


def test_a_far_source_is_a_parallel_beam():
    shape, angles = (40, 33, 2), np.array([0.0, 0.3, 1.2, np.pi / 2, 3.0, -0.7])
    x = RNG.uniform(size=shape).astype(np.float32)
    expected = np.asarray(apply(parallel_beam(shape, angles, 50, offset=0.3), x))
    errors = []
    for far in (1e3, 1e4, 1e7):
        for curved in (False, True):
            fan = fan_beam(
                shape, angles, 50, source_distance=far, detector_distance=0.0, offset=0.3, curved=curved
            )
            errors.append(relative(apply(fan, x), expected))
    print(errors)
    np.testing.assert_allclose(np.array(errors[:2]) / errors[2:4], 10, rtol=0.1)
    assert max(errors[4:]) <= 5e-6


def test_gradient_is_the_adjoint():
    operator = parallel_beam((20, 17, 2), [0.2, 0.5], 28)
    x = RNG.uniform(size=operator.in_shape).astype(np.float32)
    y = RNG.uniform(size=operator.out_shape).astype(np.float32)

    @jax.jit
    def gradient(operator, x):
        found = jax.grad(lambda x: jnp.sum((operator(x) - y) ** 2))(x)
        return found, 2 * operator.adjoint(operator(x) - y), dot_test(operator, jax.random.key(0))

    found, expected, gap = gradient(operator, x)
    assert relative(found, np.asarray(expected)) <= 1e-6
    assert gap <= 1e-6


def inside(size):
    x = np.arange(size) - (size - 1) / 2
    return np.hypot(x, x[:, None]) <= size / 2 - 1


def psnr(found, expected, mask):
    return -10 * np.log10(np.mean((np.asarray(found) - expected)[mask] ** 2))


def test_fbp_of_shepp_logan():
    angles, size, bins = np.arange(180) * np.pi / 180, 256, 363
    geometry, image = ParallelBeam((size, size, 1), angles, bins), raster(SHEPP_LOGAN, size)
    run = jax.jit(partial(fbp, geometry=geometry))
    truth = sinogram(SHEPP_LOGAN, angles, size, bins)[..., None].astype(np.float32)
    assert psnr(run(truth)[..., 0], image, inside(size)) >= 32.5
    own = apply(geometry.operator(), image[..., None].astype(np.float32))
    assert psnr(run(own)[..., 0], image, inside(size)) >= 31.3


@pytest.mark.parametrize("window", WINDOWS)
def test_fbp_of_a_disk(window):
    """One inside, in any unit, at any spacing of bins, for any window and even or uneven views."""
    size, unit, spacing = 64, 0.25, 0.2
    even = np.arange(90) * np.pi / 90
    uneven = np.cumsum(np.r_[0.0, np.tile([0.6, 1.4], 45)[:-1]]) * np.pi / 90
    s = bins_at(115 * 8, spacing / 8) / (size / 2 * unit)
    x = np.arange(size) - (size - 1) / 2
    flat = np.hypot(x, x[:, None]) <= 0.5 * size / 2
    for angles in (uneven, np.r_[even, even + np.pi]):
        views = line_integrals([(1.0, 0.7, 0.7, 0, 0, 0)], angles[:, None], s) * size / 2 * unit
        views = views.reshape(-1, 115, 8).mean(2)
        geometry = ParallelBeam((size, size, 1), angles, 115, spacing, 0.0, unit)
        found = np.asarray(fbp(jnp.asarray(views[..., None], jnp.float32), geometry, window=window)[..., 0])
        assert abs(found[flat].mean() - 1) <= 0.001
        assert np.sqrt(np.mean((found[flat] - 1) ** 2)) <= 0.005
        # the sharp edge's ripples meet at the centre
        assert np.abs(found[flat] - 1).max() <= 0.02
