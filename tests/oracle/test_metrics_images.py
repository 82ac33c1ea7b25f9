"""PSNR, SSIM and NMSE against scikit-image's numbers, brute-force windows and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.evaluation import nmse, psnr, ssim


def _uniform(seed, shape):
    return np.random.RandomState(seed).uniform(-1, 1, shape)


def _pair():
    a = _uniform(0, (16, 20, 3))
    return a, np.clip(a + 0.3 * _uniform(1, (16, 20, 3)), -1, 1)


# scikit-image 0.26.0 in float64 on _pair(): structural_similarity(a, b, channel_axis=-1, data_range=2.0,
# gaussian_weights=True, sigma=1.5, use_sample_covariance=False), the mean of its full map for "reflect", and
# peak_signal_noise_ratio(a, b, data_range=2.0); the volume likewise, without a channel axis
_SSIM, _SSIM_REFLECT, _PSNR, _SSIM_VOLUME = (
    0.7494094295584217,
    0.7448780923171031,
    21.58347653607777,
    0.7747745401291404,
)


def test_scikit_image_agrees():
    a, b = (v[None] for v in _pair())
    np.testing.assert_allclose(ssim(b, a, data_range=2.0), _SSIM, atol=2e-6)
    np.testing.assert_allclose(ssim(b, a, data_range=2.0, padding="reflect"), _SSIM_REFLECT, atol=2e-6)
    np.testing.assert_allclose(psnr(b, a, data_range=2.0), _PSNR, rtol=1e-6)


def test_scikit_image_agrees_on_a_volume():
    a = _uniform(2, (12, 13, 14))
    b = np.clip(a + 0.5 * _uniform(3, (12, 13, 14)), -1, 1)
    np.testing.assert_allclose(
        ssim(b[None, ..., None], a[None, ..., None], data_range=2.0), _SSIM_VOLUME, atol=2e-6
    )


def _by_hand(a, b, data_range, radius, sigma):
    """Wang et al.'s index window by window, in float64, for one channel."""
    c1, c2, values = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, []
    steps = [(i, j) for i in range(-radius, radius + 1) for j in range(-radius, radius + 1)]
    weights = [math.exp(-(i * i + j * j) / (2 * sigma**2)) for i, j in steps]
    for row in range(radius, a.shape[0] - radius):
        for column in range(radius, a.shape[1] - radius):
            points = np.array([(a[row + i, column + j], b[row + i, column + j]) for i, j in steps])
            (sx, sxy), (_, sy) = np.cov(points.T, aweights=weights, ddof=0)
            mx, my = np.average(points, axis=0, weights=weights)
            bright = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
            values.append(bright * (2 * sxy + c2) / (sx + sy + c2))
    return np.mean(values)


@pytest.mark.parametrize(
    ("scale", "mean", "data_range"), [(1.0, 0.0, 3.0), (20.0, -900.0, 4000.0), (1.0, 3000.0, 50.0)]
)
def test_ssim_agrees_with_windows_by_hand_also_far_from_zero(scale, mean, data_range):
    a, b = (scale * _uniform(seed, (9, 8)) + mean for seed in (4, 5))
    value = ssim(a[None, ..., None], b[None, ..., None], data_range=data_range, window=5, sigma=1.1)
    np.testing.assert_allclose(value, _by_hand(a, b, data_range, 2, 1.1), atol=1e-4 if mean else 2e-6)


def test_ssim_limits_and_invariances():
    a = _uniform(6, (3, 16, 16, 1))
    np.testing.assert_allclose(ssim(a, a, data_range=2.0), 1.0, atol=1e-6)
    assert (ssim(10 - a, 10 + a, data_range=2.0) < -0.9).all()
    b = _uniform(7, (3, 16, 16, 1))
    np.testing.assert_allclose(ssim(a, b, data_range=2.0), ssim(b, a, data_range=2.0), atol=1e-5)
    np.testing.assert_allclose(ssim(a * 50, b * 50, data_range=100.0), ssim(a, b, data_range=2.0), atol=1e-5)
    # a constant shift s of a flat image leaves luminance alone: (2 m (m+s) + C1) / (m^2 + (m+s)^2 + C1)
    flat = np.full((1, 12, 12, 1), 0.5)
    expected = (2 * 0.5 * 0.7 + 4e-4) / (0.25 + 0.49 + 4e-4)
    np.testing.assert_allclose(ssim(flat + 0.2, flat, data_range=2.0), expected, rtol=1e-5)


def test_a_value_does_not_depend_on_the_batch_and_jits():
    a, b = _uniform(8, (4, 12, 12, 2)), _uniform(9, (4, 12, 12, 2))
    a[3] += 1000.0
    both = jax.jit(lambda x, y: ssim(x, y, data_range=2.0))(a, b)
    alone = jnp.concatenate([ssim(a[i : i + 1], b[i : i + 1], data_range=2.0) for i in range(4)])
    np.testing.assert_allclose(both[:3], alone[:3], atol=1e-5)


def test_psnr_and_nmse_closed_forms():
    y = np.ones((2, 5, 5, 1))
    x = y + np.array([0.1, 0.2])[:, None, None, None]
    np.testing.assert_allclose(psnr(x, y, data_range=1.0), [20.0, 20 * math.log10(5)], rtol=1e-5)
    np.testing.assert_allclose(psnr(x, y, data_range=10.0), [40.0, 20 * math.log10(50)], rtol=1e-5)
    np.testing.assert_allclose(nmse(x, y), [0.01, 0.04], rtol=1e-5)
    np.testing.assert_allclose(nmse(7 * x, 7 * y), [0.01, 0.04], rtol=1e-5)
    assert np.isinf(psnr(y, y, data_range=1.0)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: ssim(a[:, :8], a[:, :8], data_range=2.0),
            r"image: spatial shape: got \(8, 12\), allowed: at least",
        ),
        (lambda a: ssim(a, a, data_range=2.0, window=4), "window: got 4, allowed: an odd number"),
        (
            lambda a: ssim(a, a, data_range=2.0, padding="same"),
            "padding: got 'same', allowed: one of reflect, valid",
        ),
        (lambda a: ssim(a, a, data_range=0.0), r"data_range: got 0.0, allowed: positive"),
        (lambda a: psnr(a, a, data_range=-1.0), r"data_range: got -1.0"),
        (
            lambda a: psnr(a, a[:, :5], data_range=1.0),
            r"reference: shape: got \(1, 5, 12, 1\), allowed: \(1, 12",
        ),
        (lambda a: nmse(a, 0 * a), "reference: sum of squares: got 0.0"),
    ],
)
def test_image_metrics_refuse_and_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(_uniform(0, (1, 12, 12, 1)))
