"""Block matching finds known shifts."""

import numpy as np
import pytest

from diffax.evaluation.displacement import block_match


def picture(shift=(0.0, 0.0), size=40):
    """A smooth pattern, moved by a known number of pixels."""
    i, j = np.meshgrid(np.arange(size) - shift[0], np.arange(size) - shift[1], indexing="ij")
    return np.sin(0.5 * i) * np.cos(0.37 * j) + 0.5 * np.sin(0.21 * i + 0.3 * j)


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (1.4, 0.6), (-2.3, 2.75)])
def test_known_shifts_are_found(shift):
    points = np.array([[15.0, 20.0], [22.0, 14.0], [20.0, 25.0]])
    found = block_match(picture(shift), picture(), points)
    np.testing.assert_allclose(found, np.broadcast_to(shift, found.shape), atol=0.02)


def test_brightness_does_not_matter():
    found = block_match(picture((1.0, -2.0)) + 3, picture(), np.array([[20.0, 20.0]]))
    np.testing.assert_allclose(found, [[1.0, -2.0]], atol=0.02)


def test_points_near_the_edge_have_no_answer():
    found = block_match(picture(), picture(), np.array([[3.0, 20.0], [20.0, 38.0], [20.0, 20.0]]))
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2], 0.0, atol=1e-9)


@pytest.mark.parametrize("options", [{"window": 4}, {"window": 1}, {"reach": 0}])
def test_windows_that_cannot_be(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        block_match(picture(), picture(), np.zeros((1, 2)), **options)
