"""Whole volumes on one grid of cubes, for what looks at all of a patient at once, and smooth deformations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Float32, Float64, Key

from diffax.checks import require
from diffax.data.slices import read_volume, volume_paths
from diffax.data.volume import Volume

_WAVES = 4  # of each coordinate's displacement


def cube_affine(size: int, field_mm: float) -> Float64[np.ndarray, "4 4"]:
    """Of ``size``^3 voxels over a cube with sides of ``field_mm``, about the origin."""
    require(size >= 1, "size", size, "an integer >= 1")
    require(field_mm > 0, "field_mm", field_mm, "above 0 mm")
    affine = np.diag([field_mm / size] * 3 + [1.0])
    affine[:3, 3] = -field_mm / size * (size - 1) / 2
    return affine


def to_cube(volume: Volume, size: int, field_mm: float, outside: float) -> Float32[np.ndarray, "x y z"]:
    """A volume about its own middle on :func:`cube_affine`'s grid, ``outside`` where it has no voxels.

    Trilinear, after a Gaussian blur along the axes that get coarser (half the ratio of steps, less what
    the stored voxels are blurred by).
    """
    from scipy import ndimage

    array, centre = volume.array, (np.array(volume.array.shape) - 1) / 2
    ratio = field_mm / size / np.array(volume.spacing)
    blurred = ndimage.gaussian_filter(array, 0.5 * np.sqrt(np.maximum(ratio**2 - 1, 0)), mode="nearest")
    to_index = np.linalg.inv(volume.affine[:3, :3])
    grid = cube_affine(size, field_mm)
    return ndimage.affine_transform(
        blurred,
        to_index @ grid[:3, :3],
        centre + to_index @ grid[:3, 3],
        (size,) * 3,
        order=1,
        cval=outside,
    ).astype(np.float32)


def open_cubes(
    path: str | Path,
    split: str = "train",
    *,
    size: int,
    field_mm: float,
    holdout: float | None = None,
    outside: float = -1000.0,
) -> list[Float32[np.ndarray, "x y z"]]:
    """Every volume of a split (:func:`volume_paths`) as a cube, by default of HU.

    Raises ``ValueError`` for what cannot be read, and for a volume with nothing above ``outside``.
    """
    found = []
    for file in volume_paths(path, split, holdout):
        cube = to_cube(read_volume(file), size, field_mm, outside)
        require(bool((cube > outside).any()), f"{file}: largest voxel", float(cube.max()), f"above {outside}")
        found.append(cube)
    return found


def random_warp(
    key: Key[Array, ""], volume: Float[Array, "x y z"], strength: float = 0.03
) -> Float[Array, "x y z"]:
    """The volume bent by smooth waves of 0.5 to 1.5 periods: another patient of the same kind.

    ``strength``: the standard deviation of each coordinate's displacement, as a share of the volume's
    length along it. Outside, the volume is zero.
    """
    wave_key, phase_key = jax.random.split(key)
    directions = jax.random.normal(wave_key, (3, _WAVES, 3))
    periods = jnp.linspace(0.5, 1.5, _WAVES)[None, :, None]
    waves = 2 * jnp.pi * periods * directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    phases = jax.random.uniform(phase_key, (3, _WAVES), maxval=2 * jnp.pi)
    axes = [jnp.arange(n) / n for n in volume.shape]
    x, y, z = jnp.meshgrid(*axes, indexing="ij", sparse=True)

    def displaced(axis: int) -> Array:
        total = sum(
            jnp.sin(k[0] * x + k[1] * y + k[2] * z + phase)
            for k, phase in zip(waves[axis], phases[axis], strict=True)
        )
        own = (x, y, z)[axis] + strength * np.sqrt(2 / _WAVES) * total
        return own * volume.shape[axis]

    return map_coordinates(volume, [displaced(axis) for axis in range(3)], order=1, mode="constant")
