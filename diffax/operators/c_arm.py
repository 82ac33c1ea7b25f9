r"""Geometry of a C-arm: an X-ray source, a flat detector, and where both stand around a patient.

World: millimetres, RAS+ (x to the patient's right, y to the front, z to the head). Before it is turned, the
C-arm looks from the front (AP): ::

         image, as from the source             from above (z towards you)
        j ->                                        source (0, sod, 0)
      i   patient's  |  patient's                        *
      |   right      |  left                            / \        y
      v              |                                 / O \       |     O: isocentre, at the origin
          feet below, head above                      /     \      +-- x
                                                     ---------  detector, y = sod - sdd

A pose turns it about the isocentre and moves the isocentre: ``p -> R p + translation`` with
``R = Rz(yaw) Rx(pitch) Ry(roll)``, intrinsic: first about the patient's long axis, then about the turned x,
then about the beam. The right-hand rule holds: yaw > 0 moves the source to the patient's left, pitch > 0
towards the head, and roll > 0 turns the image of a still patient clockwise. At the isocentre the
magnification is ``sdd / sod``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.checks import require, require_one_of
from diffax.types import Scalar

Affine = Float[Array | np.ndarray, "4 4"]  # of a volume: from voxels to the world, in mm
# where the source stands: degrees of yaw, pitch, roll
VIEWS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "ap": (0.0, 0.0, 0.0),
        "pa": (180.0, 0.0, 0.0),
        "left": (90.0, 0.0, 0.0),
        "right": (-90.0, 0.0, 0.0),
    }
)


class CArm(NamedTuple):
    """``sdd``: source to detector; ``sod``: source to isocentre; ``spacing``: of pixels; in mm.

    ``shape``: rows and columns of the detector. ``sod = inf`` is a parallel beam, whose pixels are as far
    apart at the isocentre.
    """

    sdd: float = 1020.0
    sod: float = 510.0
    spacing: float = 2.0
    shape: tuple[int, int] = (128, 128)


class Pose(NamedTuple):
    """``p -> rotation @ p + translation`` from the C-arm's frame to the world, in mm."""

    rotation: Float[Array, "*n 3 3"]
    translation: Float[Array, "*n 3"]


class Rays(NamedTuple):
    """Straight lines in the world, from ``source`` to ``target``: (rows, columns, 3) together."""

    source: Float[Array, "*#rays 3"]
    target: Float[Array, "*rays 3"]


def check_c_arm(arm: CArm) -> CArm:
    """The C-arm; ``ValueError`` for distances, pixels or a detector that cannot be."""
    require(arm.sod > 0, "sod", arm.sod, "above 0 mm")
    require(bool(np.isinf(arm.sod)) or arm.sdd >= arm.sod, "sdd", arm.sdd, f"at least sod, {arm.sod} mm")
    require(arm.spacing > 0, "spacing", arm.spacing, "above 0 mm")
    require(min(arm.shape) >= 1, "shape", arm.shape, "at least 1 row and 1 column")
    return arm


def rotation(yaw: Scalar, pitch: Scalar = 0.0, roll: Scalar = 0.0, *, degrees: bool = True) -> Array:
    """``Rz(yaw) Rx(pitch) Ry(roll)``, (3, 3); angles in degrees, or radians."""
    factor = jnp.pi / 180 if degrees else 1.0
    z, x, y = (jnp.asarray(angle, jnp.float32) * factor for angle in (yaw, pitch, roll))
    return _about(2, z) @ _about(0, x) @ _about(1, y)


def pose(
    yaw: Scalar = 0.0,
    pitch: Scalar = 0.0,
    roll: Scalar = 0.0,
    isocentre: Float[Array | np.ndarray, "3"] | tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    degrees: bool = True,
) -> Pose:
    """The C-arm turned by three angles about an isocentre in the world, in mm."""
    return Pose(rotation(yaw, pitch, roll, degrees=degrees), jnp.asarray(isocentre, jnp.float32))


def view(name: str, isocentre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Pose:
    """One of :data:`VIEWS` by its name."""
    require_one_of("view", name, VIEWS)
    return pose(*VIEWS[name], isocentre=isocentre)


def look_at(
    source: Float[Array | np.ndarray, "3"],
    isocentre: Float[Array | np.ndarray, "3"],
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> tuple[Pose, Float[Array, ""]]:
    """The pose whose source stands at a point and looks at another, and the ``sod`` that this takes.

    ``up`` is what the image shows upwards, as nearly as can be; it must not lie along the beam.
    """
    back = jnp.asarray(source, jnp.float32) - jnp.asarray(isocentre, jnp.float32)
    distance = jnp.linalg.norm(back)
    y = back / distance
    x = jnp.cross(y, jnp.asarray(up, jnp.float32))
    x = x / jnp.linalg.norm(x)
    return Pose(jnp.stack([x, y, jnp.cross(x, y)], axis=-1), jnp.asarray(isocentre, jnp.float32)), distance


def rays(arm: CArm, at: Pose) -> Rays:
    """A ray for every pixel of the detector, to the pixel's centre; differentiable in the pose."""
    check_c_arm(arm)
    rows, columns = arm.shape
    across = -(jnp.arange(columns) - (columns - 1) / 2) * arm.spacing
    up = -(jnp.arange(rows) - (rows - 1) / 2) * arm.spacing
    x, z = jnp.broadcast_to(across[None], arm.shape), jnp.broadcast_to(up[:, None], arm.shape)
    if np.isinf(arm.sod):  # from far before to far behind whatever is shown
        far = jnp.float32(arm.sdd)
        source, target = (jnp.stack([x, jnp.full(arm.shape, y), z], axis=-1) for y in (far, -far))
    else:
        source = jnp.array([[[0.0, arm.sod, 0.0]]])
        target = jnp.stack([x, jnp.full(arm.shape, arm.sod - arm.sdd), z], axis=-1)
    return Rays(_to_world(at, source), _to_world(at, target))


def auto_fov(arm: CArm, shape: tuple[int, int, int], affine: Affine, margin: float = 1.0) -> CArm:
    """The C-arm with pixels of the size by which all corners of a volume fall on the detector from the front.

    Times ``margin``; for poses that turn, take the volume's diagonal by a margin of about 1.2.
    """
    corners = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ affine[:3, :3].T
    world = world - world.mean(axis=0)
    scale = 1.0 if np.isinf(arm.sod) else arm.sdd / (arm.sod - world[:, 1])
    require(bool(np.all(np.asarray(scale) > 0)), "sod", arm.sod, "a source outside the volume")
    half = np.abs(world[:, [2, 0]] * np.reshape(scale, (-1, 1))).max(axis=0)
    return check_c_arm(arm._replace(spacing=float(margin * np.max(2 * half / np.array(arm.shape)))))


def centre_of(shape: tuple[int, int, int], affine: Affine) -> tuple[float, float, float]:
    """The middle of a volume in the world, in mm: the usual isocentre."""
    x, y, z = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    return float(x), float(y), float(z)


def project(arm: CArm, at: Pose, points: Float[Array, "*n 3"]) -> Float[Array, "*n 2"]:
    """Where points of the world fall on the detector: (row, column), in pixels from the first's centre."""
    local = (points - at.translation) @ at.rotation
    size = 1.0 if np.isinf(arm.sod) else arm.sdd / (arm.sod - local[..., 1])
    rows, columns = arm.shape
    i = (rows - 1) / 2 - local[..., 2] * size / arm.spacing
    j = (columns - 1) / 2 - local[..., 0] * size / arm.spacing
    return jnp.stack([i, j], axis=-1)


def _to_world(at: Pose, points: Array) -> Array:
    return jnp.einsum("ab,...b->...a", at.rotation, points, precision="highest") + at.translation


def _about(axis: int, angle: Array) -> Array:
    c, s, one, zero = jnp.cos(angle), jnp.sin(angle), jnp.ones_like(angle), jnp.zeros_like(angle)
    rows = {
        0: [[one, zero, zero], [zero, c, -s], [zero, s, c]],
        1: [[c, zero, s], [zero, one, zero], [-s, zero, c]],
        2: [[c, -s, zero], [s, c, zero], [zero, zero, one]],
    }[axis]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
