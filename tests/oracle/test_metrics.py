"""Distances between sets: closed forms, brute force, limits, and figures of a peer package."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from diffax.evaluation import (
    copy_check,
    frechet_between,
    frechet_distance,
    frechet_floor,
    gaussian_stats,
    kernel_distance,
    merge_stats,
    prdc,
    stream_stats,
)
from diffax.evaluation import distances as distances_module
from diffax.evaluation.frechet import GaussianStats
from diffax.evaluation.kid import mmd2


def _normal(seed, n, d):
    return np.random.RandomState(seed).standard_normal((n, d))


def _stats(mean, cov, n=10_000):
    return GaussianStats(n, np.asarray(mean, float), np.asarray(cov, float) * (n - 1))


# --- Fréchet


def test_commuting_covariances_have_a_closed_form():
    # in a common eigenbasis: |m|^2 + sum (sqrt(a_i) - sqrt(b_i))^2
    basis, _ = np.linalg.qr(_normal(0, 6, 6))
    a, b = np.array([4.0, 1, 0.25, 9, 1e-6, 2]), np.array([1.0, 1, 4, 0, 1e-6, 3])
    shift = np.arange(6) / 3
    one, two = _stats(np.zeros(6), basis * a @ basis.T), _stats(shift, basis * b @ basis.T)
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    np.testing.assert_allclose(frechet_between(one, two), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_general_covariances_agree_with_a_schur_square_root(seed):
    x, y = _normal(seed, 40, 8) @ _normal(9, 8, 8), _normal(seed + 50, 60, 8) + 0.3
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root.real)
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(y, x), expected, rtol=1e-9)


def test_singular_covariances_give_real_finite_values():
    x = _normal(0, 50, 4) @ np.ones((4, 6))  # rank 1
    assert abs(frechet_distance(x, x)) < 1e-6 * np.trace(np.cov(x.T))
    # the square root of a rank-1 covariance v v^T against I: tr = |v|^2 + 6 - 2 |v|
    v = np.arange(6.0)
    expected = v @ v + 6 - 2 * np.linalg.norm(v)
    np.testing.assert_allclose(
        frechet_between(_stats(0 * v, np.outer(v, v)), _stats(0 * v, np.eye(6))), expected
    )


def test_streaming_is_the_same_as_at_once_even_far_from_the_origin():
    x = _normal(3, 1000, 5) + 1e6
    whole, parts = gaussian_stats(x), stream_stats(np.split(x, [1, 17, 600]))
    assert parts.n == 1000
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.cov, np.cov(x.T), rtol=1e-6, atol=1e-7)
    merged = merge_stats(gaussian_stats(x[:300]), gaussian_stats(x[300:]))
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("n_real", "n_fake", "field"), [(8, 30, "n_real"), (30, 8, "n_fake"), (5, 5, "n_real")]
)
def test_too_few_samples_for_the_features_are_refused(n_real, n_fake, field):
    with pytest.raises(
        ValueError, match=rf"{field}: got {min(n_real, n_fake)}, allowed: at least 9 samples for 8"
    ):
        frechet_distance(_normal(0, n_real, 8), _normal(1, n_fake, 8))
    frechet_distance(_normal(0, 9, 8), _normal(1, 9, 8))


def test_the_floor_is_small_positive_and_falls_with_the_samples():
    x = _normal(0, 4000, 6)
    few, many = frechet_floor(x, 50), frechet_floor(x)
    assert 0 < many < 0.05 < few < frechet_distance(x, x + 2)
    with pytest.raises(ValueError, match=r"n: got 2001, allowed: 1 .. 2000"):
        frechet_floor(x, 2001)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value):
    bad = _normal(0, 20, 3)
    bad[4, 1] = value
    for measure in (frechet_distance, prdc, lambda a, b: kernel_distance(a, b, subset_size=5)):
        with pytest.raises(ValueError, match=f"got {value}, allowed: finite values"):
            measure(_normal(1, 20, 3), bad)


# --- KID


def _brute_mmd2(x, y):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_mmd_agrees_with_the_double_loop():
    x, y = _normal(0, 7, 3), _normal(1, 5, 3) + 0.5
    np.testing.assert_allclose(mmd2(x, y), _brute_mmd2(x.tolist(), y.tolist()), rtol=1e-10)


def test_kid_is_zero_on_average_for_one_distribution_and_its_error_is_honest():
    repeats = [
        kernel_distance(_normal(2 * i, 200, 4), _normal(2 * i + 1, 200, 4), subset_size=50, subsets=20)
        for i in range(60)
    ]
    values = np.array([r.value for r in repeats])
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 3 * spread / np.sqrt(len(values))
    assert (values < 0).any()
    claimed = np.mean([r.std_error for r in repeats])
    assert 0.7 * spread < claimed < 2.5 * spread


def test_kid_sees_a_shift_and_refuses_bad_subsets():
    x, y = _normal(0, 100, 4), _normal(1, 80, 4) + 1
    close = kernel_distance(x, _normal(2, 80, 4), subset_size=40, subsets=10)
    far = kernel_distance(x, y, subset_size=40, subsets=10)
    assert far.value > close.value + 5 * far.std_error
    assert far == kernel_distance(x, y, subset_size=40, subsets=10)
    with pytest.raises(ValueError, match=r"subset_size: got 81, allowed: 2 .. 80, the smaller of n_real=100"):
        kernel_distance(x, y, subset_size=81)
    with pytest.raises(ValueError, match="fake: values per item: got 3, allowed: 4, as real"):
        kernel_distance(x, y[:, :3], subset_size=10)


# --- precision, recall, density, coverage


def _brute_prdc(real, fake, k):
    def radius(points, i):
        others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    r, f = [radius(real, i) for i in range(len(real))], [radius(fake, i) for i in range(len(fake))]
    inside = np.array([[np.linalg.norm(a - b) < r[i] for b in fake] for i, a in enumerate(real)])
    reverse = np.array([[np.linalg.norm(a - b) < f[j] for j, b in enumerate(fake)] for a in real])
    return inside.any(0).mean(), reverse.any(1).mean(), inside.sum() / (k * len(fake)), inside.any(1).mean()


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("block_bytes", [2**26, 8 * 40])  # all at once; a row at a time
def test_prdc_agrees_with_brute_force_whatever_the_blocks(monkeypatch, k, block_bytes):
    monkeypatch.setattr(distances_module, "_BLOCK_BYTES", block_bytes)
    real, fake = _normal(0, 40, 3), _normal(1, 30, 3) * 0.7 + 0.4
    np.testing.assert_allclose(prdc(real, fake, k=k), _brute_prdc(real, fake, k), rtol=1e-12)


def test_prdc_agrees_with_the_package_of_its_authors():
    # prdc 0.2 (PyPI), compute_prdc(x, y, nearest_k=3) on these arrays
    x, y = _normal(4, 60, 5), _normal(5, 50, 5) * 0.8 + 0.3
    np.testing.assert_allclose(prdc(x, y, k=3), (0.96, 0.7, 1.2733333333333332, 0.85), rtol=1e-12)


def test_prdc_limits():
    x = _normal(0, 100, 4)
    np.testing.assert_allclose(prdc(x, x), 1.0)
    np.testing.assert_allclose(prdc(x, x + 100), 0.0)
    collapsed = prdc(x, x[:1] + 1e-3 * _normal(1, 100, 4))
    assert collapsed.precision == 1
    assert collapsed.recall < 0.05
    assert collapsed.coverage < 0.2
    with pytest.raises(ValueError, match=r"k: got 100, allowed: 1 .. 99, below n_real=100"):
        prdc(x, x, k=100)


# --- copies


def test_copies_are_found_and_fresh_samples_are_not():
    train, held_out, fresh = _normal(0, 300, 6), _normal(1, 200, 6), _normal(2, 200, 6)
    new = copy_check(fresh, train, held_out)
    assert 0.85 < new.median_ratio < 1.15
    assert new.closer_share < 0.12
    assert new.duplicates == 0
    copied = np.concatenate([train[40:60], fresh[:180]])
    some = copy_check(copied, train, held_out)
    assert some.duplicates == 20
    assert some.neighbour[:20].tolist() == list(range(40, 60))
    assert 0.1 <= some.closer_share < 0.2
    near = copy_check(train[:100] + 1e-3, train, held_out, tolerance=2e-3)
    assert near.median_ratio < 0.01
    assert near.closer_share == 1
    assert near.duplicates == 100
    assert copy_check(train[:100] + 1e-3, train, held_out).duplicates == 0


def test_nearest_agrees_with_brute_force_on_images(monkeypatch):
    monkeypatch.setattr(distances_module, "_BLOCK_BYTES", 8 * 3 * 9)
    a, b = _normal(0, 8, 12).reshape(8, 2, 3, 2), _normal(1, 9, 12).reshape(9, 2, 3, 2)
    found = copy_check(a, b, b[:4] + 0.1)
    table = np.array([[np.sqrt(((x - y) ** 2).sum()) for y in b] for x in a])
    np.testing.assert_allclose(found.distance, table.min(1), rtol=1e-12)
    assert (found.neighbour == table.argmin(1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 0.0}, r"percentile: got 0.0, allowed: \(0, 100\)"),
        ({"tolerance": -1.0}, "tolerance: got -1.0"),
        ({"train": _normal(0, 5, 4)}, "generated: values per item: got 3, allowed: 4, as train"),
        ({"generated": np.zeros((0, 3))}, r"generated: shape: got \(0, 3\)"),
    ],
)
def test_copy_check_refuses_and_names(options, message):
    sets = {"generated": _normal(0, 5, 3), "train": _normal(1, 5, 3), "held_out": _normal(2, 5, 3)}
    with pytest.raises(ValueError, match=message):
        copy_check(**(sets | options))
