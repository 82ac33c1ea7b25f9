"""Windows of images and volumes against the whole, a loop in float64, and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal.windows import gaussian

from diffax import VP, gaussian_denoiser
from diffax.guidance import over_windows, sliding_window
from diffax.guidance.sliding_window import windows_of

TIMES = jnp.array([0.2, 0.7])


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "blend", "at_once"),
    [
        ((13, 9), (5, 4), 0.5, "gaussian", 1),
        ((13, 9), (5, 9), 0.7, "constant", 4),
        ((7, 5, 11), (4, 5, 3), 0.25, "gaussian", 3),
        ((7, 5, 11), (3, 2, 5), 0.0, "constant", 100),
    ],
)
def test_a_denoiser_of_pixels_is_the_same_in_windows(size, window, overlap, blend, at_once):
    """E[x0 | x] of independent pixels reads no neighbour: cutting must not be seen."""
    whole = gaussian_denoiser(VP(), 0.3, 0.5)
    windowed = sliding_window(window, overlap, blend=blend, at_once=at_once)(whole)
    x = normal(2, *size, 2)
    np.testing.assert_allclose(jax.jit(windowed)(x, TIMES), whole(x, TIMES), rtol=1e-5, atol=1e-5)


def test_conditions_of_the_image_are_cut_along_and_others_go_to_every_window():
    def reads_all(x, t, cond=None):
        level = (t + cond["label"] + cond["vector"][:, 1])[:, None, None, None]
        hidden = cond["unconditional"][:, None, None, None]
        return jnp.where(hidden, x, x * cond["mask"][..., None] + cond["concat"][..., 1:2] * level)

    x = normal(2, 7, 9, 1)
    cond = {
        "concat": normal(2, 7, 9, 3, seed=1),
        "mask": normal(2, 7, 9, seed=2),
        "label": jnp.array([1, 5]),
        "vector": normal(2, 3, seed=3),
        "unconditional": jnp.array([False, False]),
    }
    windowed = jax.jit(sliding_window((4, 4), at_once=2)(reads_all))
    for hidden in ([False, False], [False, True]):
        given = cond | {"unconditional": jnp.array(hidden)}
        expected = reads_all(x, TIMES, given)
        np.testing.assert_allclose(windowed(x, TIMES, given), expected, rtol=1e-4, atol=1e-5)


def smear(x, t, cond=None):
    """A denoiser that reads all pixels of its window, not alike."""
    ramp = jnp.arange(x[0].size, dtype=jnp.float32).reshape(x.shape[1:])
    return x + jnp.sum(x * ramp, axis=tuple(range(1, x.ndim)), keepdims=True)


def test_windows_are_blended_as_a_loop_does_it():
    """Sum of weighted windows over sum of weights, the weight a bell of an eighth of the window's width."""
    x = normal(1, 8, 6, 1)
    bell = np.outer(gaussian(4, 0.5), gaussian(3, 0.375))[..., None]
    total, weight = np.zeros((8, 6, 1)), np.zeros((8, 6, 1))
    for i, j in itertools.product((0, 2, 4), (0, 1, 2, 3)):  # strides of 2 and, half of 3 rounded down, 1
        place = (slice(i, i + 4), slice(j, j + 3))
        total[place] += bell * np.float64(smear(x[:, *place], TIMES)[0])
        weight[place] += bell
    np.testing.assert_allclose(sliding_window((4, 3))(smear)(x, TIMES[:1])[0], total / weight, rtol=1e-4)


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("size", "window", "overlap"), [(97, 32, 0.5), (33, 32, 0.9), (10, 3, 0.0), (5, 5, 0.5)]
)
def test_weights_sum_to_one_and_neighbours_share_what_was_asked(size, window, overlap, blend):
    starts, weights = windows_of(size, window, overlap, blend)
    total = np.zeros(size)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + window] += row
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert weights.min() > 0
    assert (starts[0], starts[-1]) == (0, size - window)
    if len(starts) > 1:
        assert (window - np.diff(starts)).min() >= np.floor(overlap * window)


def test_a_window_of_the_whole_image_is_the_denoiser():
    x = normal(2, 5, 6, 3, 1)
    np.testing.assert_allclose(sliding_window((5, 6, 3), 0.9)(smear)(x, TIMES), smear(x, TIMES), rtol=1e-6)


def test_the_denoiser_is_traced_as_often_for_many_windows_as_for_two():
    counts = []
    for width in (6, 40):
        calls = []

        def counting(x, t, cond=None, calls=calls):
            calls.append(x.shape)
            return x

        windowed = jax.jit(sliding_window((4, 4), at_once=2)(counting))
        windowed(normal(2, 4, width, 1), TIMES)
        once = len(calls)
        windowed(normal(2, 4, width, 1, seed=1), 0.5 * TIMES)
        assert len(calls) == once
        assert set(calls) == {(4, 4, 4, 1)}
        counts.append(once)
    assert counts[0] == counts[1] <= 3


def test_a_gradient_is_that_of_the_whole():
    def loss(function):
        return jax.jit(jax.grad(lambda x: jnp.sum(function(x, TIMES) ** 2)))(normal(2, 7, 9, 1))

    whole = gaussian_denoiser(VP(), 0.3, 0.5)
    windowed = sliding_window((4, 4), at_once=3)(whole)
    np.testing.assert_allclose(loss(windowed), loss(whole), rtol=1e-4, atol=1e-5)


def test_a_network_may_give_other_channels():
    """Such as the logits of a segmentation: three for each voxel of one channel."""
    logits = over_windows(lambda x: jnp.concatenate([x, x**2, 1 - x], -1), normal(2, 5, 7, 6, 1), (4, 3, 4))
    x = normal(2, 5, 7, 6, 1)
    np.testing.assert_allclose(logits, np.concatenate([x, x**2, 1 - x], -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "options", "shape"),
    [
        ("window", {"window": (9, 4)}, (2, 8, 8, 1)),
        ("window", {"window": ()}, (2, 8, 8, 1)),
        ("x.shape", {"window": (4, 4)}, (2, 8, 8, 8, 1)),
        ("overlap", {"window": (4, 4), "overlap": 1.0}, (2, 8, 8, 1)),
        ("overlap", {"window": (4, 4), "overlap": -0.1}, (2, 8, 8, 1)),
        ("at_once", {"window": (4, 4), "at_once": 0}, (2, 8, 8, 1)),
        ("blend", {"window": (4, 4), "blend": "cosine"}, (2, 8, 8, 1)),
    ],
)
def test_what_does_not_fit_is_named(field, options, shape):
    with pytest.raises(ValueError, match=f"^{field}: got .*, allowed: "):
        sliding_window(**options)(smear)(jnp.zeros(shape), TIMES)


def test_a_network_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match=r"^output of a window: got \(2, 2, 4, 1\), allowed: \(2, 4, 4\)"):
        over_windows(lambda x: x[:, ::2], jnp.zeros((2, 8, 8, 1)), (4, 4))
