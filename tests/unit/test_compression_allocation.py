"""Who gives up how much: means and caps, sensitivities against brute force, widths that reach the ratio."""

import math

import numpy as np
import pytest

from diffax.models.decoder_lm import DecoderConfig, uniform_layers
from experiments.modegpt.allocation import (
    by_influence,
    by_sensitivity,
    hull,
    layer_parameters,
    nearest,
    part_shares,
    part_sizes,
    sizes_of,
    spread,
    widths,
)

RANDOM = np.random.default_rng(0)
LLAMA = DecoderConfig(1000, 512, 8, 2, 64, uniform_layers(4, 1376, 64))
OPT = DecoderConfig(1000, 256, 4, 4, 64, uniform_layers(3, 1024, 64), family="opt", activation="relu")


# -- layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 1e4, math.inf])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 0.8])
def test_the_mean_of_layers_is_the_ratio_under_the_cap(share, epsilon):
    for _ in range(5):
        influence = RANDOM.uniform(0, 1, 9)
        found = by_influence(influence, share, epsilon, 0.8)
        np.testing.assert_allclose(found.mean(), share, atol=1e-12)
        assert found.min() >= 0
        assert found.max() <= 0.8
        assert (np.diff(found[np.argsort(influence)]) <= 1e-12).all(), "who matters more gives no more"


def test_without_the_cap_shares_are_a_softmax():
    influence = np.array([0.2, 0.5, 0.1])
    found = by_influence(influence, 0.3, 0.5, 0.99)
    expected = [0.9 / (1 + math.exp(-2 * (b - a)) + math.exp(-2 * (c - a)))
                for a, b, c in ((0.2, 0.5, 0.1), (0.5, 0.2, 0.1), (0.1, 0.2, 0.5))]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_infinite_epsilon_is_uniform_and_a_small_one_fills_in_order():
    influence = np.array([0.4, 0.0, 0.9, 0.2])
    np.testing.assert_allclose(by_influence(influence, 0.3, math.inf, 0.8), 0.3, rtol=1e-12)
    np.testing.assert_allclose(by_influence(influence, 0.3, 0.01, 0.8), [0, 0.8, 0, 0.4], atol=1e-6)


def test_what_the_cap_cuts_off_goes_to_the_others_in_proportion():
    sizes = np.array([1.0, 2.0, 3.0, 4.0])
    found = spread(np.array([10.0, 1.0, 2.0, 0.0]), sizes, 0.2, 0.6)
    # the first is full with 0.6; the others share 2 - 0.6 at 1 : 2
    np.testing.assert_allclose(found, [0.6, 1.4 / 8, 2.8 / 8, 0.0], rtol=1e-12)
    # once the first is full, the second would be over: it is full as well
    np.testing.assert_allclose(spread(np.array([8.0, 4.0, 1.0]), np.ones(3), 0.5, 0.6), [0.6, 0.6, 0.3])


def test_shares_that_cannot_be_reached_are_refused():
    with pytest.raises(ValueError, match=r"ratio: got 0\.9, allowed: at most 0\.800, with a cap of 0\.8"):
        by_influence(np.zeros(3), 0.9, 1.0, 0.8)
    with pytest.raises(ValueError, match=r"ratio: got 0\.5, allowed: at most 0\.400"):
        spread(np.array([1.0, 0.0]), np.ones(2), 0.5, 0.8)
    with pytest.raises(ValueError, match="epsilon: got 0"):
        by_influence(np.zeros(3), 0.3, 0.0, 0.8)
    np.testing.assert_allclose(spread(np.array([1.0, 0.0]), np.ones(2), 0.4, 0.8), [0.8, 0])


@pytest.mark.parametrize("config", [LLAMA, OPT])
@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 1, 0.5), (1, 0, 0), (10, 1, 1)])
def test_parts_of_a_layer_give_up_its_share_together(config, weights):
    for share in (0.1, 0.4):
        found = part_shares(config, np.full(len(config.layers), share), weights, 0.8)
        size = sizes_of(config, config.layers[0])
        np.testing.assert_allclose(found @ size, share * size.sum(), rtol=1e-12)
        assert found.max() <= 0.8
        assert (found[:, np.array(weights) == 0] == 0).all()


# -- parts by their cost ------------------------------------------------------------------------------------


def test_the_cheapest_parts_are_those_of_a_search_over_everything():
    """Convex curves with knots on a grid, of which sizes and share are multiples: the optimum lies on it."""
    steps = np.array([0.25, 0.5, 0.75, 1.0])
    for seed in range(8):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 4, (1, 3)).astype(float)
        costs = np.cumsum(np.sort(random.uniform(0, 1, (1, 3, 4)), axis=-1), axis=-1)
        fine = np.arange(25) / 24
        for share in (0.25, 0.5, 0.75):
            found = by_sensitivity(costs, steps, sizes, share)
            np.testing.assert_allclose((found * sizes).sum(), share * sizes.sum(), rtol=1e-12)
            curves = [np.interp(fine, np.append(0, steps), np.append(0, c)) for c in costs[0]]
            grids = np.meshgrid(*[np.arange(25)] * 3, indexing="ij")
            total = sum(curve[at] for curve, at in zip(curves, grids, strict=True))
            removed = sum(size * fine[at] for size, at in zip(sizes[0], grids, strict=True))
            best = total[np.abs(removed - share * sizes.sum()) < 1e-9].min()
            ours = sum(
                np.interp(x, np.append(0, steps), np.append(0, c))
                for x, c in zip(found[0], costs[0], strict=True)
            )
            np.testing.assert_allclose(ours, best, rtol=1e-9)


def test_costs_that_fall_or_are_negative_are_taken_for_flat():
    steps, sizes = np.array([0.25, 0.5]), np.ones((1, 2))
    costs = np.array([[[0.3, 0.1], [-0.2, -0.1]]])
    found = by_sensitivity(costs, steps, sizes, 0.25)
    np.testing.assert_allclose(found, [[0.0, 0.5]])


def test_a_share_beyond_the_last_step_is_refused():
    with pytest.raises(ValueError, match=r"ratio: got 0\.8, allowed: at most 0\.75"):
        by_sensitivity(np.ones((2, 3, 2)), np.array([0.5, 0.75]), np.ones((2, 3)), 0.8)
    found = by_sensitivity(np.ones((2, 3, 2)), np.array([0.5, 0.75]), np.ones((2, 3)), 0.75)
    np.testing.assert_allclose(found, 0.75)


def test_the_hull_lies_below_all_points_and_is_convex():
    for seed in range(5):
        random = np.random.default_rng(seed)
        x, y = np.sort(random.uniform(0, 1, 12)), random.normal(size=12)
        corners = np.array(hull(x, y))
        assert {tuple(c) for c in corners} <= set(zip(x, y, strict=True))
        np.testing.assert_array_equal(corners[[0, -1], 0], x[[0, -1]])
        slopes = np.diff(corners[:, 1]) / np.diff(corners[:, 0])
        assert (np.diff(slopes) > 0).all()
        assert (np.interp(x, *corners.T) <= y + 1e-12).all()
    assert hull(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])) == [(0, 0), (2, 2)]


# -- widths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [LLAMA, OPT])
@pytest.mark.parametrize("multiple", [1, 8])
def test_widths_reach_the_ratio_within_one_hundredth(config, multiple):
    whole = layer_parameters(config, config.layers)
    for seed in range(10):
        parts = np.random.default_rng(seed).uniform(0, 0.7, (len(config.layers), 3))
        sizes = np.stack([sizes_of(config, layer) for layer in config.layers])
        layers = widths(config, parts, multiple)
        removed = 1 - layer_parameters(config, layers) / whole
        assert abs(removed - (parts * sizes).sum() / whole) < 0.01
        for layer in layers:
            assert layer.hidden % multiple == 0
            assert config.kv_heads * layer.keys % multiple == 0
            assert config.kv_heads * layer.values % multiple == 0
            assert layer.keys % 2 == 0 or config.family == "opt"


def test_nothing_to_give_up_keeps_all_widths_even_those_that_are_no_multiples():
    for multiple in (1, 7, 2048):
        assert widths(LLAMA, np.zeros((4, 3)), multiple) == LLAMA.layers


def test_hidden_units_make_up_for_what_heads_round():
    """Heads of 2 can give up all or nothing of a pair; the layer's parameters are met all the same."""
    config = DecoderConfig(50, 64, 4, 4, 2, uniform_layers(1, 172, 2))
    found = widths(config, np.full((1, 3), 0.3))[0]
    assert (found.keys, found.values) == (2, 1)
    whole = layer_parameters(config, config.layers)
    assert abs(layer_parameters(config, [found]) - 0.7 * whole) <= 3 * 64 / 2


@pytest.mark.parametrize(
    ("width", "multiple", "most", "expected"),
    [
        (44.8, 1, 64, 45),
        (44.8, 8, 64, 48),
        (0.1, 8, 64, 8),
        (0.0, 1, 64, 1),
        (64.0, 8, 64, 64),
        (43.0, 8, 43, 43),
        (42.0, 8, 43, 40),
        (30.0, 64, 64, 64),
        (30.0, 128, 64, 64),
    ],
)
def test_nearest_multiples(width, multiple, most, expected):
    assert nearest(width, multiple, most) == expected


def test_parts_hold_what_a_layers_matrices_hold():
    assert part_sizes(LLAMA, LLAMA.layers[0]) == {
        "mlp": 3 * 512 * 1376,
        "qk": 512 * 64 * (8 + 2),
        "vo": 512 * 64 * (2 + 8),
    }
    assert part_sizes(OPT, OPT.layers[0]) == {
        "mlp": 2 * 256 * 1024,
        "qk": 2 * 256 * 256,
        "vo": 2 * 256 * 256,
    }
    narrow = LLAMA.layers[0]._replace(stream=(100, 90, 80), ranks=(("query", 7),))
    expected = 100 * 7 + 7 * 512 + 100 * 128 * 2 + 512 * 90 + 100 * 90  # attention and its shortcut
    expected += 2 * 90 * 1376 + 1376 * 80 + 90 * 80
    assert layer_parameters(LLAMA, [narrow]) == expected
