"""Procedural torsos: a function of the index, in HU, lying as patients lie."""

import numpy as np
import pytest

from diffax.data import display_slice
from diffax.data.torsos import FIELD_MM, HU_RANGE, TorsoSource, held_out_torso, torso, torsos

SIZE = 32


def test_equal_arguments_give_equal_voxels_and_every_index_another_body():
    first, again = torso(3, SIZE), torso(3, SIZE)
    np.testing.assert_array_equal(first.array, again.array)
    others = torso(4, SIZE), torso(3, SIZE, seed=1)
    for other in others:
        assert np.abs(other.array - first.array).mean() > 50


def test_values_and_geometry():
    for index in range(3):
        body = torso(index, SIZE)
        assert body.array.dtype == np.float32
        assert body.array.shape == (SIZE,) * 3
        assert HU_RANGE[0] == body.array.min() < 200 < body.array.max() <= HU_RANGE[1]
        soft = (body.array > -200) & (body.array < 250)
        assert 0.2 < soft.mean() < 0.8
        assert body.array[:, :2].max() < -50  # air behind, and perhaps a couch
    np.testing.assert_allclose(body.spacing, FIELD_MM / SIZE)
    corners = body.affine @ np.array([[0, 0, 0, 1], [SIZE - 1, SIZE - 1, SIZE - 1, 1]]).T
    np.testing.assert_allclose(corners[:3].sum(axis=1), 0)  # the cube's centre is the origin
    np.testing.assert_allclose(corners[:3, 1], 200 - 200 / SIZE)


def test_a_size_changes_the_sampling_not_the_body():
    fine, coarse = torso(0, 32).array, torso(0, 16).array
    pooled = fine.reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(pooled.ravel(), coarse.ravel())[0, 1] > 0.95


def test_axes_are_ras():
    """Over bodies: spine behind, lungs above, the liver (its values, in large pieces) at the right."""
    bodies, half = np.stack([torso(i, SIZE).array for i in range(24)]), SIZE // 2
    bone = np.mean(bodies > 250, axis=0)[half - 3 : half + 3]
    assert bone[:, :half].sum() > 4 * bone[:, half:].sum()
    profile = bodies[:, 6:-6, 8:-8].mean(axis=(0, 1, 2))
    assert profile[-6:].mean() < profile[:6].mean() - 150
    liver = np.mean((bodies > 55) & (bodies < 135), axis=0)
    assert liver[half + 2 : -4].mean() > 1.5 * liver[4 : half - 2].mean()


def test_splits_share_no_torso():
    train, test, both = (torsos(split, volumes=16, size=8) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (16 * 8, 2 * 8, 18 * 8)
    middles = {
        source[volume * 8 + 4]["image"].tobytes()
        for source, count in ((train, 16), (test, 2))
        for volume in range(count)
    }
    assert len(middles) == 18
    np.testing.assert_array_equal(both[16 * 8 + 4]["image"], test[4]["image"])
    shown = display_slice(held_out_torso(0, 8).array, "axial", 4)
    np.testing.assert_allclose(test[4]["image"][..., 0], np.rint(shown) / 1000, atol=1e-6)


def test_items_are_displayed_slices():
    source = TorsoSource([7, 2], SIZE)
    assert len(source) == 2 * SIZE
    for index in (5, SIZE + 20):
        item = source[index]
        volume, place = divmod(index, SIZE)
        expected = display_slice(torso((7, 2)[volume], SIZE).array, "axial", place)
        np.testing.assert_allclose(item["image"][..., 0], expected / 1000, atol=0.6e-3)
        assert item["image"].dtype == np.float32
        assert item["volume"] == volume
        assert item["volume"].dtype == np.int32


def test_errors_are_named():
    with pytest.raises(ValueError, match="index: got -1"):
        torso(-1)
    with pytest.raises(ValueError, match="size: got 4"):
        torso(0, 4)
    with pytest.raises(ValueError, match="torsos: got 0"):
        TorsoSource([])
    with pytest.raises(ValueError, match="split: got 'validation'"):
        torsos("validation")
    with pytest.raises(ValueError, match="volumes: got 0"):
        torsos(volumes=0)
