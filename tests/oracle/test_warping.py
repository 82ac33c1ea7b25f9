"""Warps by displacement fields: shifts, affine maps, scipy's interpolation, planted folds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffax.operators import random_flow, warp, warping

KEY = jax.random.key(7)
SHAPES = [(9, 12), (6, 5, 7)]


def image(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def affine(matrix, shift, shape):
    """The field of ``p -> middle + matrix (p - middle) + shift``, of one sample."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    offset = grid - (np.array(shape) - 1) / 2
    return jnp.asarray(offset @ (np.asarray(matrix) - np.eye(len(shape))).T + shift, jnp.float32)[None]


TURN = {2: [[1.1, -0.12], [0.08, 0.95]], 3: [[1.1, -0.12, 0.05], [0.08, 0.95, 0.1], [0.02, -0.06, 1.04]]}

# compiled once for all tests of a shape
warp_, compose, invert, folding = (
    jax.jit(f) for f in (warp, warping.compose, warping.invert, warping.folding_share)
)
draw = jax.jit(random_flow, static_argnums=(1, 2, 3, 4))


# --- warp


@pytest.mark.parametrize("shape", SHAPES)
def test_scipy_interpolates_alike_also_outside(shape):
    x, flow = image(0, 2, *shape, 3), 4 * image(1, 2, *shape, len(shape))
    got = np.asarray(warp_(x, flow))
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    for sample, channel in itertools.product(range(2), range(3)):
        places = [g + np.asarray(flow)[sample, ..., axis] for axis, g in enumerate(grid)]
        plane = np.asarray(x)[sample, ..., channel]
        expected = ndimage.map_coordinates(plane, places, order=1, mode="nearest")
        np.testing.assert_allclose(got[sample, ..., channel], expected, atol=2e-5)


def test_integer_shifts_move_pixels_and_no_shift_none():
    x = image(2, 2, *SHAPES[0], 3)
    np.testing.assert_array_equal(warp_(x, jnp.zeros((2, *SHAPES[0], 2))), x)
    flow = jnp.broadcast_to(jnp.array([2.0, -3.0]), (2, *SHAPES[0], 2))
    got = np.asarray(warp_(x, flow))
    np.testing.assert_array_equal(got[:, :-2, 3:], x[:, 2:, :-3])
    np.testing.assert_array_equal(got[:, -3:, 5], np.repeat(x[:, -1:, 2], 3, axis=1))  # the edge, repeated
    line = image(3, 1, 1, 5, 1)  # an axis of one pixel
    got = warp_(line, jnp.full((1, 1, 5, 2), -4.0))
    np.testing.assert_array_equal(got, np.repeat(line[:, :, :1], 5, axis=2))


def test_labels_move_to_the_pixels_that_they_fill_most():
    """Shifts by whole pixels carry them exactly; of a shift by 0.4 or 0.6 the nearer neighbour's is kept."""
    labels = jnp.array([[[0, 2, 2, 1], [3, 0, 1, 1]]])
    for shift, expected in (
        (1.0, [[2, 2, 1, 1], [0, 1, 1, 1]]),
        (0.4, labels[0]),
        (0.6, [[2, 2, 1, 1], [0, 1, 1, 1]]),
    ):
        flow = jnp.broadcast_to(jnp.array([0.0, shift]), (1, 2, 4, 2))
        np.testing.assert_array_equal(warping.warp_labels(labels, flow, 4)[0], expected)


def test_derivatives_are_those_of_differences(float64):
    x, flow = (v.astype(jnp.float64) for v in (image(4, 1, 4, 5, 2), 1.5 * image(5, 1, 4, 5, 2)))
    weights = image(6, 1, 4, 5, 2).astype(jnp.float64)

    @jax.jit
    def loss(x, flow):
        return jax.value_and_grad(lambda *v: jnp.sum(weights * warp(*v) ** 2), (0, 1))(x, flow)

    _, gradients = loss(x, flow)
    for number in range(2):
        inputs = [np.array(x), np.array(flow)]
        expected = np.zeros(x.shape)
        for place in np.ndindex(x.shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = [v.copy() for v in inputs]
                moved[number][place] += step
                values.append(loss(*moved)[0])
            expected[place] = (values[0] - values[1]) / 2e-6
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(gradients[number], expected, atol=1e-7)


# --- composition and inverse


def test_composing_is_warping_by_the_first_and_then_by_the_second():
    """Shifts and a turn do not commute; an image of linear slopes is interpolated exactly."""
    shape = (9, 12)
    first, second = affine(TURN[2], [0.5, -0.25], shape), affine(np.eye(2), [1.0, 2.0], shape)
    rows, columns = np.meshgrid(*map(np.arange, shape), indexing="ij")
    x = jnp.asarray(np.stack([rows, 2 * columns - rows], axis=-1), jnp.float32)[None]
    expected = warp_(warp_(x, first), second)
    inside = (slice(None), slice(2, 6), slice(2, 8))
    np.testing.assert_allclose(warp_(x, compose(first, second))[inside], expected[inside], atol=1e-5)
    assert np.abs(warp_(x, compose(second, first)) - expected)[inside].max() > 0.1


@pytest.mark.parametrize("shape", [(20, 24), (14, 12, 16)])
def test_affine_maps_compose_and_invert_as_their_matrices(shape):
    matrix, shift = np.array(TURN[len(shape)]), np.linspace(0.5, -0.4, len(shape))
    flow = affine(matrix, shift, shape)
    inside = (slice(None),) + tuple(slice(n // 3, -(n // 3)) for n in shape)  # whose paths stay within
    twice = affine(matrix @ matrix, matrix @ shift + shift, shape)
    np.testing.assert_allclose(compose(flow, flow)[inside], twice[inside], atol=1e-5)
    back = np.linalg.inv(matrix)
    inverse = affine(back, -back @ shift, shape)
    np.testing.assert_allclose(invert(flow)[inside], inverse[inside], atol=1e-4)


def test_the_inverse_undoes_a_smooth_flow():
    flow = draw(KEY, 3, (20, 24), (1.0, 2.0))[2:] / 2
    inverse, zero = invert(flow), jnp.zeros_like(flow)

    @jax.jit
    def consistency(flow, inverse):
        return jax.jvp(lambda v: warping.inverse_consistency(flow, v), (inverse,), (flow + 1,))

    found, _ = consistency(flow, inverse)
    assert found.shape == (1,)
    assert (found < 1e-4).all()
    # the other way round: all but the paths that cross the edges, up to the interpolation of the inverse
    residual = np.linalg.norm(compose(inverse, flow), axis=-1)[:, 3:-3, 3:-3]
    assert residual.max() < 0.1
    assert residual.mean() < 0.02
    # no inverse: the residual is the flow itself; and a slope where there is none
    expected = np.mean(np.linalg.norm(flow, axis=-1), axis=(1, 2))
    np.testing.assert_allclose(consistency(flow, zero)[0], expected, rtol=1e-5)
    assert np.isfinite(consistency(zero, zero)[1]).all()


# --- determinants, folds


@jax.jit
def slopes(flow):
    return warping.jacobian_determinant(flow), warping.smoothness(flow)


@pytest.mark.parametrize("shape", [(20, 24), (14, 12, 16)])
def test_affine_maps_have_their_determinant_and_constant_slopes_everywhere(shape):
    matrix = np.array(TURN[len(shape)])
    determinants, smoothness = slopes(affine(matrix, 0.5, shape))
    assert determinants.shape == (1, *shape)
    np.testing.assert_allclose(determinants, np.linalg.det(matrix), atol=2e-5)
    squares = np.sum((matrix - np.eye(len(shape))) ** 2)
    np.testing.assert_allclose(smoothness, [squares / len(shape) ** 2], rtol=1e-4)


def test_determinants_are_of_central_differences():
    rows = np.arange(20.0)
    flow = np.zeros((1, 20, 24, 2), np.float32)
    flow[0, ..., 0] = 0.01 * rows[:, None] ** 2  # slope 0.02 x row, exactly by central differences
    got, _ = slopes(jnp.asarray(flow))
    np.testing.assert_allclose(got[0, 1:-1], np.repeat(1 + 0.02 * rows[1:-1, None], 24, axis=1), rtol=1e-5)
    np.testing.assert_allclose(got[0, 0], 1.01, rtol=1e-5)


def test_a_planted_fold_is_counted():
    """Nothing; in four rows the pixels of two columns pass each other; all mirrored; all onto one column."""
    flow = np.zeros((4, 20, 24, 2), np.float32)
    # slopes along columns: -1.5 at those two by central differences, which fold, and 1.5 beside them
    flow[1, 3:7, 10, 1], flow[1, 3:7, 11, 1] = 3.0, -3.0
    flow[2:] = np.stack([affine(np.diag([1.0, slope]), 0.0, (20, 24))[0] for slope in (-1.0, 0.0)])
    np.testing.assert_allclose(folding(jnp.asarray(flow)), [0, 8 / 480, 1, 1], rtol=1e-6)


# --- random fields


def test_random_flows_are_smooth_and_as_long_as_asked_for():
    flow = np.asarray(draw(KEY, 3, (20, 24), (1.0, 2.0)))
    assert flow.shape == (3, 20, 24, 2)
    longest = np.linalg.norm(flow, axis=-1).reshape(3, -1).max(1)
    assert longest.min() >= 1 - 1e-5
    assert longest.max() <= 2 + 1e-5
    assert np.ptp(longest) > 0.1
    for axis, n in ((1, 20), (2, 24)):
        steepest = np.abs(np.diff(flow, axis=axis)).reshape(3, -1).max(1) * (n / 4) / longest
        assert (steepest < 2.7).all()  # in longest displacements per distance of control points
        assert (steepest > 0.5).all()
    volumes = jax.eval_shape(lambda: random_flow(KEY, 5, (6, 7, 8), (0.0, 1.0)))
    assert volumes.shape == (5, 6, 7, 8, 3)


def test_random_flows_depend_on_key_and_place_only():
    flow = np.asarray(draw(KEY, 3, (20, 24), (1.0, 2.0)))
    np.testing.assert_array_equal(draw(KEY, 3, (20, 24), (1.0, 2.0)), flow)
    assert np.abs(flow[0] - flow[1]).max() > 0.1
    assert np.abs(draw(jax.random.key(8), 3, (20, 24), (1.0, 2.0)) - flow).max() > 0.1
    # alone, and of a length asked for: the same but for its scale
    alone = draw(KEY, 1, (20, 24), (3.0, 3.0))
    longest = np.linalg.norm(flow[0], axis=-1).max()
    np.testing.assert_allclose(alone[0], 3 * flow[0] / longest, atol=1e-5)


# --- losses


def test_local_correlation_agrees_with_windows_by_hand_and_so_does_its_derivative():
    a, b, direction = (image(seed, 2, 7, 8, 1) for seed in (8, 9, 10))
    b = b + a

    def by_hand(first, second):
        values = np.zeros((2, 7, 8))
        for n, i, j in np.ndindex(2, 7, 8):
            around = (n, slice(max(i - 2, 0), i + 3), slice(max(j - 2, 0), j + 3), 0)
            values[n, i, j] = np.corrcoef(first[around].ravel(), second[around].ravel())[0, 1] ** 2
        return values.mean((1, 2))

    got, slope = jax.jit(lambda *v: jax.jvp(lambda b: warping.local_ncc(a, b, 5), (v[0],), (v[1],)))(
        b, direction
    )
    first, second, step = (np.asarray(v, np.float64) for v in (a, b, 1e-4 * direction))
    np.testing.assert_allclose(got, by_hand(first, second), atol=1e-4)
    expected = (by_hand(first, second + step) - by_hand(first, second - step)) / 2e-4
    np.testing.assert_allclose(slope, expected, atol=1e-4)


def test_limits_of_local_correlation():
    ncc = jax.jit(warping.local_ncc)
    a, b = image(10, 1, 16, 18, 2), image(11, 1, 16, 18, 2)
    np.testing.assert_allclose(ncc(a, a), 1, atol=1e-4)
    np.testing.assert_allclose(ncc(a, 500 - 0.01 * a), 1, atol=2e-3)  # the offset costs digits
    assert ncc(a, b) < 0.1
    assert ncc(a, 0 * b) == 0
    # a field of brightness that varies slowly hardly matters
    assert ncc(a, a + jnp.linspace(0, 3, 16)[None, :, None, None]) > 0.8


# --- what is refused

FLOW = jnp.zeros((1, 5, 6, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warp(FLOW[:, :, :5], FLOW), r"image: spatial shape: got \(5, 5\), allowed: \(5, 6\)"),
        (lambda: warp(FLOW, FLOW[..., :1]), r"flow: shape: got \(1, 5, 6, 1\), allowed: \(b, rows, col"),
        (lambda: warping.invert(FLOW, 0), "iterations: got 0, allowed: an integer >= 1"),
        (lambda: warping.jacobian_determinant(FLOW[:, :1]), r"flow: spatial shape: got \(1, 6\), allowed"),
        (lambda: warping.smoothness(FLOW[:, :, :1]), r"flow: spatial shape: got \(5, 1\), allowed: at"),
        (lambda: warping.local_ncc(FLOW, FLOW, 4), "window: got 4, allowed: an odd number"),
        (lambda: random_flow(KEY, 1, (5,), (0.0, 1.0)), r"shape: got \(5,\), allowed: 2 or 3 lengths"),
        (lambda: random_flow(KEY, 1, (5, 6), (2.0, 1.0)), r"pixels: got \(2.0, 1.0\), allowed: 0 <= low"),
        (lambda: random_flow(KEY, 1, (5, 6), (0.0, 1.0), 0), "control: got 0, allowed: an integer >= 1"),
        (lambda: random_flow(KEY, 0, (5, 6), (0.0, 1.0)), "batch: got 0, allowed: an integer >= 1"),
    ],
)
def test_warping_refuses_and_names(call, message):
    with pytest.raises(ValueError, match=message):
        call()
