"""Demons find a planted flow, in our axes."""

import sys

import numpy as np
import pytest
from scipy import ndimage

from experiments.medical_survey.demons import demons


def planted(shape, amplitudes):
    """A textured image after and before a smooth flow of waves, and the flow."""
    rng = np.random.default_rng(0)
    moving = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    moving /= np.abs(moving).max()
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    waves = [
        a * np.sin(2 * np.pi * g / n + axis)
        for axis, (a, g, n) in enumerate(zip(amplitudes, grid, shape, strict=True))
    ]
    flow = np.stack(waves, axis=-1)
    fixed = ndimage.map_coordinates(moving, list(grid + np.stack(waves)), order=3, mode="nearest")
    return fixed, moving, flow


@pytest.mark.parametrize(("shape", "amplitudes"), [((64, 48), (3.0, 1.5)), ((20, 24, 28), (1.5, 1.0, 0.5))])
def test_demons_find_a_planted_flow(shape, amplitudes):
    """At least two thirds of it, inside; unequal axes and amplitudes tell the components apart."""
    pytest.importorskip("SimpleITK")
    fixed, moving, flow = planted(shape, amplitudes)
    found = demons(fixed, moving, iterations=40, std=1.5)
    assert found.shape == (*shape, len(shape))
    inside = tuple(slice(4, -4) for _ in shape)
    missed = np.linalg.norm(found - flow, axis=-1)[inside].mean()
    assert missed < 0.35 * np.linalg.norm(flow, axis=-1)[inside].mean(), missed


def test_demons_refuse_and_name(monkeypatch):
    square = np.zeros((8, 8))
    for arguments, message in (
        ((square, square[:5]), r"moving: shape: got \(5, 8\), allowed: \(8, 8\), as fixed"),
        ((square[0], square[0]), r"fixed: shape: got \(8,\), allowed: two or three axes"),
        ((square, square, 0), "iterations: got 0"),
        ((square, square, 5, 0.0), "std: got 0.0, allowed: above 0"),
        ((square, square, 5, 1.0, 0), "levels: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            demons(*arguments)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ValueError, match="SimpleITK: got no such package, allowed: pip install SimpleITK"):
        demons(square, square)
