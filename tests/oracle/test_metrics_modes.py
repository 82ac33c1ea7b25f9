"""Mode coverage against mixtures and histograms whose answer is known."""

import jax
import numpy as np
import pytest

from diffax.data import grid, ring, sample_mixture, three_modes
from diffax.evaluation import classifier_modes, mixture_modes


def _one_hot(classes, k, confidence=0.97):
    p = np.full((len(classes), k), (1 - confidence) / (k - 1))
    p[np.arange(len(classes)), classes] = confidence
    return p


def test_a_faithful_sampler_covers_everything():
    x = sample_mixture(grid(), jax.random.key(0), 5000)
    found = mixture_modes(x, *grid())
    assert found.modes == 25
    np.testing.assert_allclose(found.high_quality, 1 - np.exp(-4.5), atol=0.006)  # chi-squared, 2 dof
    assert found.kl < 0.006
    assert found.total_variation < 0.06


def test_within_counts_deviations_along_each_axis():
    x = sample_mixture(
        ring(1)._replace(covs=np.diag([1.0, 1e-4]).astype(np.float32)[None]), jax.random.key(0), 8000
    )
    mixture = ring(1)._replace(covs=np.diag([1.0, 1e-4]).astype(np.float32)[None])
    for within in (1.0, 2.0):
        found = mixture_modes(x, *mixture, within=within)
        np.testing.assert_allclose(found.high_quality, 1 - np.exp(-(within**2) / 2), atol=0.02)


def test_collapse_to_some_modes_is_measured():
    mixture = ring()
    means = np.asarray(mixture.means)
    found = mixture_modes(np.repeat(means[:2], 50, axis=0), *mixture)
    assert found.modes == 2
    assert found.high_quality == 1
    # all mass on 2 of 8 equal modes: KL = log 4, TV = 6/8
    np.testing.assert_allclose([found.kl, found.total_variation], [np.log(4), 0.75], rtol=1e-6)


def test_unequal_weights_are_the_reference():
    mixture = three_modes()
    x = np.repeat(np.asarray(mixture.means), [50, 30, 20], axis=0)
    found = mixture_modes(x, *mixture)
    np.testing.assert_allclose([found.kl, found.total_variation], 0, atol=1e-6)
    uniform = mixture_modes(np.repeat(np.asarray(mixture.means), 100, axis=0), *mixture)
    expected = sum(np.log((1 / 3) / p) / 3 for p in (0.5, 0.3, 0.2))
    np.testing.assert_allclose(uniform.kl, expected, rtol=1e-5)


def test_noise_covers_nothing():
    noise = np.random.default_rng(0).uniform(-6, 6, (2000, 2)).astype(np.float32)
    found = mixture_modes(noise, *grid())
    assert found.high_quality < 0.02
    assert found.total_variation > 0.97
    empty = classifier_modes(np.full((100, 10), 0.1), np.ones(10))
    assert (empty.modes, empty.high_quality, empty.kl, empty.total_variation) == (0, 0.0, float("inf"), 1.0)


def test_the_gate_decides_which_samples_count():
    classes = np.array([0] * 60 + [1] * 40)
    p = np.concatenate([_one_hot(classes[:60], 4), _one_hot(classes[60:], 4, confidence=0.6)])
    low, high = (
        classifier_modes(p, np.array([6, 4, 0, 0])),
        classifier_modes(p, np.array([6, 4, 0, 0]), gate=0.9),
    )
    assert (low.modes, low.high_quality) == (2, 1.0)
    np.testing.assert_allclose([low.kl, low.total_variation], 0, atol=1e-12)
    assert (high.modes, high.high_quality) == (1, 0.6)
    # accepted: 0.6 in class 0; missing 0.4 of class 1 and 0.4 rejected: TV = (0 + 0.4 + 0.4) / 2
    np.testing.assert_allclose([high.kl, high.total_variation], [np.log(1 / 0.6), 0.4], rtol=1e-12)
    np.testing.assert_allclose(high.histogram, [0.6, 0, 0, 0])


def test_few_samples_make_no_mode_and_an_unknown_mode_is_infinite():
    p = _one_hot(np.array([0] * 97 + [1] * 3), 3)
    assert classifier_modes(p, np.ones(3)).modes == 2
    assert classifier_modes(p, np.ones(3), min_count=5).modes == 1
    assert classifier_modes(p, np.array([1.0, 0, 1])).kl == float("inf")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classifier_modes(np.full((3, 4), 0.5), np.ones(4)), "probabilities: sum of a row: got 2.0"),
        (lambda: classifier_modes(np.array([[1.5, -0.5]]), np.ones(2)), "probabilities: sum of a row"),
        (
            lambda: classifier_modes(np.full((3, 4), 0.25), np.ones(4), gate=0.0),
            r"gate: got 0.0, allowed: \(0, 1\]",
        ),
        (lambda: classifier_modes(np.eye(4), np.zeros(4)), "reference: got .*not all 0"),
        (lambda: classifier_modes(np.eye(4), np.ones(3)), "reference: modes: got 3, allowed: at least 4"),
        (lambda: classifier_modes(np.eye(4), np.ones(4), min_count=0), "min_count: got 0"),
        (lambda: mixture_modes(np.full((2, 2), np.nan), *ring()), "samples: .*finite values"),
        (lambda: mixture_modes(np.zeros((2, 2)), *ring(), within=0.0), "within: got 0.0, allowed: positive"),
    ],
)
def test_modes_refuse_and_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
