r"""Fan-beam tomography: Joseph's projector along each ray, and its exact transpose as a gather.

Conventions of :mod:`diffax.operators.tomography`: x to the right, y up, row 0 at +y, angles in radians. At
angle theta the source stands at ``source_distance * (sin(theta), -cos(theta))`` and the detector's centre on
the other side of the origin, at ``detector_distance * (-sin(theta), cos(theta))``; bins run along
``(cos(theta), sin(theta))``. The ray to the bin at ``u = (k - (n - 1) / 2) * spacing + offset`` leaves the
central ray by gamma (``tan(gamma) = u / L`` on a flat detector, ``gamma = u / L`` on an arc about the
source, L the distance from source to detector): it is the parallel beam's ray at angle ``theta - gamma`` and
``s = source_distance * sin(gamma)``. As the source moves away the operator becomes the parallel beam.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffax.checks import require
from diffax.operators import tomography as parallel
from diffax.operators.base import LinearOperator


def fan_beam(
    shape: Sequence[int],
    angles: parallel.Angles,
    detectors: int,
    *,
    source_distance: float,
    detector_distance: float,
    spacing: float = 1.0,
    offset: float = 0.0,
    pixel: float = 1.0,
    curved: bool = False,
) -> LinearOperator:
    """Line integrals from a point source, ``(rows, columns, slices) -> (views, detectors, slices)``, float32.

    Args:
      shape: ``(rows, columns, slices)``; every slice has its source in its own plane.
      angles: of the views, in radians.
      detectors: bins per view.
      source_distance, detector_distance: from the rotation axis to the source and to the detector.
      spacing, offset: between bins, and of the detector's centre; along the arc where curved.
      pixel: side of a pixel. All lengths share one unit.
      curved: whether the detector is an arc about the source.

    Indices and weights are computed on the host in float64: eight bytes per ray and image line, and for the
    adjoint four bytes per view, pixel and bin that a pixel's shadow touches (and four for the first).
    Entries are those of Joseph (IEEE TMI 1(3), 1982). Raises ``ValueError`` for a geometry that
    :class:`diffax.operators.ParallelBeam` refuses, for a source within a pixel of the image's circumscribed
    circle, and for a negative detector distance.
    """
    beam = parallel.ParallelBeam(shape, angles, detectors, spacing, offset, pixel)
    parallel.check_lengths(source_distance=source_distance)
    reach = pixel * (math.hypot(*beam.shape[:2]) / 2 + 1)
    require(source_distance > reach, "source_distance", source_distance, f"more than {reach:g}, outside")
    ok = math.isfinite(detector_distance) and detector_distance >= 0
    require(ok, "detector_distance", detector_distance, "a finite number >= 0")
    rays = _Rays(beam, source_distance, source_distance + detector_distance, curved)
    return LinearOperator(_forward(rays), _adjoint(rays), beam.shape, beam.out_shape)


@dataclass(frozen=True, eq=False)
class _Rays:
    """The rays as rays of parallel beams; ``length`` is from the source to the detector."""

    beam: parallel.ParallelBeam
    source: float
    length: float
    curved: bool

    def gamma(self) -> np.ndarray:
        """Angles of the bins from the central ray."""
        bins = np.arange(self.beam.detectors) - (self.beam.detectors - 1) / 2
        u = (bins * self.beam.spacing + self.beam.offset) / self.length
        return u if self.curved else np.arctan(u)

    def bins(self, gamma: np.ndarray) -> np.ndarray:
        """Bin numbers, not rounded, at angles from the central ray."""
        # behind the source there is no bin; the limit only keeps the tangent finite
        gamma = np.clip(gamma, -1.57, 1.57)
        u = self.length * (gamma if self.curved else np.tan(gamma))
        return (u - self.beam.offset) / self.beam.spacing + (self.beam.detectors - 1) / 2

    def angles(self) -> np.ndarray:
        """Angles of the rays as of parallel views, ``(views, detectors)``."""
        return np.asarray(self.beam.angles)[:, None] - self.gamma()


def _slope(angles: np.ndarray) -> np.ndarray:
    """Share of the major direction, ``max(|cos|, |sin|)``."""
    return np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))


@dataclass(frozen=True)
class _Project:
    """``(tables, order, lengths, x) -> A x``: rays that cross rows, then rays that cross columns."""

    shape: Sequence[int]

    def __call__(self, tables: tuple[Any, ...], order: Array, lengths: Array, x: Array) -> Array:
        padded = jnp.pad(x, (*parallel._margins(self.shape), (0, 0)))
        flat = padded.reshape(-1, x.shape[2])
        parts = [
            parallel._project_along(flat, table, step, None, 0, table[0].shape[-1])
            for table, step in zip(tables, (1, padded.shape[1]))
            if table is not None
        ]
        rays = jnp.concatenate([part.reshape(-1, x.shape[2]) for part in parts])
        return rays[order] * lengths[..., None]


def _forward(rays: _Rays) -> jax.tree_util.Partial:
    """Tables of where each ray crosses each row, or each column, it crosses most steeply."""
    angles, shape, pixel = rays.angles(), rays.beam.shape, rays.beam.pixel
    s = np.broadcast_to(rays.source * np.sin(rays.gamma()) / pixel, angles.shape).ravel()
    cos, sin = np.cos(angles).ravel(), np.sin(angles).ravel()
    by_rows = np.abs(cos) >= np.abs(sin)
    along, across = np.flatnonzero(by_rows), np.flatnonzero(~by_rows)
    x, y = _centres(shape)
    height, width = (n + sum(margin) for n, margin in zip(shape, parallel._margins(shape)))
    in_rows = (s[along, None] - np.outer(sin[along], y)) / cos[along, None] - x[0] + 2
    in_columns = (np.outer(cos[across], x) - s[across, None]) / sin[across, None] + y[0] + 2
    tables = (
        _line_tables(in_rows, (1, width), width, shape[2]),
        _line_tables(in_columns, (width, 1), height, shape[2]),
    )
    slots = [0 if table is None else parallel._slots(table[0]) * table[0].shape[4] for table in tables]
    order = parallel._places([along, across], slots, len(s)).reshape(angles.shape)
    lengths = jnp.asarray(pixel / _slope(angles), jnp.float32)
    return jax.tree_util.Partial(_Project(shape), tables, jnp.asarray(order), lengths)


def _centres(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """x of the columns and y of the rows, in pixels."""
    rows, columns = shape[:2]
    return np.arange(columns) - (columns - 1) / 2, (rows - 1) / 2 - np.arange(rows)


def _line_tables(
    position: np.ndarray, steps: tuple[int, int], size: int, slices: int
) -> tuple[Array, Array] | None:
    """Indices and weights at ``position[ray, line]``, in groups of rays as the parallel beam's loops take."""
    n_rays, lines = position.shape
    if not n_rays:
        return None
    most = parallel._BLOCK // slices
    per_group, groups = parallel._shares(n_rays, min(4096, max(512, most)))
    # what is added to fill a group points at the zeros before the image
    position = np.pad(position, ((0, groups * per_group - n_rays), (0, -lines % parallel._LINES)))
    index, fraction = parallel._split(position, size - 2)
    flat = index * np.int32(steps[0]) + ((2 + np.arange(position.shape[1])) * steps[1]).astype(np.int32)
    order = (groups, per_group, -1, parallel._LINES, 1)
    table = (flat.reshape(order), fraction.reshape(order))
    return jnp.asarray(table[0].transpose(0, 2, 3, 4, 1)), jnp.asarray(table[1].transpose(0, 2, 3, 4, 1))


@dataclass(frozen=True)
class _Backproject:
    """``(index, weights, y) -> A^T y`` by blocks of image rows, one view after the other."""

    shape: Sequence[int]

    def __call__(self, index: Array, weights: Array, y: Array) -> Array:
        rows, columns, slices = self.shape
        flat, taps = jnp.reshape(y, (-1, slices)), weights.shape[2]
        zero = jnp.zeros((*index.shape[2:], slices), y.dtype)

        def view(total: Array, table: tuple[Array, Array]) -> tuple[Array, None]:
            first, weight = table

            def add(tap: Any, total: Array) -> Array:
                return total + weight[tap][..., None] * parallel._rows(flat, first + tap)

            if taps > parallel._UNROLLED_TAPS:
                return jax.lax.fori_loop(0, taps, add, total), None
            for tap in range(taps):
                total = add(tap, total)
            return total, None

        def block(table: tuple[Array, Array]) -> Array:
            return jax.lax.scan(view, zero, table)[0]

        return jax.lax.map(block, (index, weights)).reshape(-1, columns, slices)[:rows]


def _adjoint(rays: _Rays) -> jax.tree_util.Partial:
    """The forward's entries by pixel: the first bin that a pixel's shadow touches, and the bins' weights."""
    rows, columns, slices = rays.beam.shape
    found = [_shadow(rays, float(theta)) for theta in np.asarray(rays.beam.angles)]
    taps = max(1, min(rays.beam.detectors, max(int(count.max()) for _, count in found)))
    angles = rays.angles()
    tables = [
        _view_table(rays, angles[view], np.clip(first, 0, rays.beam.detectors - taps), taps)
        for view, (first, _) in enumerate(found)
    ]
    starts = rays.beam.detectors * np.arange(len(tables))[:, None, None]
    first = np.stack([index for index, _ in tables]) + starts
    weights = np.stack([weight for _, weight in tables])
    block, blocks = parallel._shares(rows, max(1, parallel._BLOCK // (columns * slices)))
    fill = ((0, blocks * block - rows), (0, 0))
    first = np.pad(first, ((0, 0), *fill)).reshape(-1, blocks, block, columns)
    weights = np.pad(weights, ((0, 0), (0, 0), *fill)).reshape(-1, taps, blocks, block, columns)
    index = jnp.asarray(first.swapaxes(0, 1), jnp.int32)
    return jax.tree_util.Partial(
        _Backproject(rays.beam.shape), index, jnp.asarray(weights.transpose(2, 0, 1, 3, 4))
    )


def _shadow(rays: _Rays, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """First bin that can touch each pixel, and how many, ``(rows, columns)``.

    From the source a pixel stands at angle gamma and distance r; a ray touches it within ``m * pixel`` of its
    centre, and m changes by at most the angle to the ray.
    """
    x, y = (n * rays.beam.pixel for n in _centres(rays.beam.shape))
    along = -x * math.sin(theta) + y[:, None] * math.cos(theta) + rays.source
    aside = x * math.cos(theta) + y[:, None] * math.sin(theta)
    gamma, distance = np.arctan2(aside, along), np.hypot(aside, along)
    near = rays.beam.pixel / distance
    slope = np.minimum(1.0, _slope(theta - gamma) + np.arcsin(np.minimum(1.0, near)))
    half = np.arcsin(np.minimum(1.0, near * slope))
    last = rays.beam.detectors - 1
    first = np.clip(np.ceil(rays.bins(gamma - half) - 1e-9), 0, last + 1)
    final = np.clip(np.floor(rays.bins(gamma + half) + 1e-9), -1, last)
    return first.astype(np.int32), np.maximum(0, final - first + 1).astype(np.int32)


def _view_table(
    rays: _Rays, angles: np.ndarray, first: np.ndarray, taps: int
) -> tuple[np.ndarray, np.ndarray]:
    """First bins and the entries of the matrix for the ``taps`` bins from there."""
    x, y = _centres(rays.beam.shape)
    cos, sin, slope = np.cos(angles), np.sin(angles), _slope(angles)
    s = rays.source * np.sin(rays.gamma()) / rays.beam.pixel
    bins = first + np.arange(taps)[:, None, None]
    away = np.abs(x * cos[bins] + y[:, None] * sin[bins] - s[bins]) / slope[bins]
    return first, (np.maximum(0.0, 1.0 - away) * (rays.beam.pixel / slope[bins])).astype(np.float32)
