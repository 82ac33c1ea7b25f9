"""Line integrals of a CT volume view by view, by as few compiled programs as can be."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from diffax.data import Volume
from diffax.operators import CArm, attenuation, c_arm, ray_casting
from diffax.operators.spectrum import tube
from experiments.radrotator.angles import Angles

_CHUNK = 2**18  # rays at once
_FLOOR = 1e-12  # of transmission


class Physics(NamedTuple):
    """How rays are summed, and what the detector makes of them: ``photons`` 0 is a detector without noise."""

    method: str = "joseph"
    polychromatic: bool = False
    photons: float = 0.0
    seed: int = 0


class Cast(NamedTuple):
    """Line integrals (n, rows, columns), seconds of a view, and what compilation took."""

    lines: Float32[np.ndarray, "n rows columns"]
    seconds_per_view: float
    seconds_compiling: float
    compilations: int


def cast(
    volume: Volume,
    arm: CArm,
    views: list[Angles],
    isocentre: tuple[float, float, float],
    physics: Physics,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cast:
    """Every view, one after the other; compiled once, for Joseph's method once for each axis of its slabs."""
    materials, affine = _materials(volume, physics), jnp.asarray(volume.affine, jnp.float32)
    programs: dict[int, Any] = {}
    lines = np.empty((len(views), *arm.shape), np.float32)
    compiling, seconds, key = 0.0, 0.0, jax.random.key(physics.seed)
    for number, angles in enumerate(views):
        at, begun = c_arm.pose(*angles, isocentre=isocentre), time.perf_counter()
        axis = ray_casting.main_axis(affine, c_arm.rays(arm._replace(shape=(1, 1)), at))
        axis = axis if physics.method == "joseph" else -1
        given = (materials, affine, at, jax.random.fold_in(key, number))
        if axis not in programs:
            programs[axis] = jax.jit(_program(arm, axis, physics, volume.array.shape)).lower(*given).compile()
            compiling += time.perf_counter() - begun
            begun = time.perf_counter()
        lines[number] = programs[axis](*given)
        seconds += time.perf_counter() - begun
        progress(number + 1, len(views))
    return Cast(lines, seconds / len(views), compiling, len(programs))


def _materials(volume: Volume, physics: Physics) -> tuple[Array, ...]:
    """What rays add up: attenuation, or relative densities of soft tissue and bone."""
    hu = jnp.asarray(volume.array)
    if not physics.polychromatic:
        return (attenuation.hu_to_mu(hu),)
    soft, bone = attenuation.split_materials(hu, (-1001.0, 250.0))  # lung counts, as with one energy
    return soft, bone


def _program(
    arm: CArm, axis: int, physics: Physics, shape: tuple[int, ...]
) -> Callable[..., Float[Array, "rows columns"]]:
    options: dict[str, Any] = {"axis": axis} if axis >= 0 else {}
    if physics.method == "trilinear":  # about one sample a voxel
        options["n_samples"] = math.ceil(math.hypot(*shape))
    chunk = _CHUNK if math.prod(arm.shape) > _CHUNK else 0

    def project(
        materials: tuple[Array, ...], affine: Array, at: c_arm.Pose, key: Key[Array, ""]
    ) -> Float[Array, "rows columns"]:
        rays = c_arm.rays(arm, at)
        paths = [
            ray_casting.render(each, affine, rays, physics.method, chunk, **options) for each in materials
        ]
        return _detected(jnp.stack(paths), key, physics)

    return project


def _detected(
    paths: Float[Array, "materials rows columns"], key: Key[Array, ""], physics: Physics
) -> Float[Array, "rows columns"]:
    """What a detector makes of the paths, as line integrals."""
    if physics.polychromatic:
        spectrum = tube()
        mu, share = jnp.asarray(spectrum.mu, jnp.float32), jnp.asarray(spectrum.share, jnp.float32)
        lines = attenuation.lines_from(attenuation.polychromatic(paths, mu, share), _FLOOR)
    else:
        lines = paths[0]
    if not physics.photons:
        return lines
    counted = attenuation.photon_noise(key, attenuation.transmission(lines), physics.photons)
    return attenuation.lines_from(counted, 0.5 / physics.photons)  # no photon at all counts as half of one
