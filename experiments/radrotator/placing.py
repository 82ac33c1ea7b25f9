"""Where source and detector stand so that a body lies between them and on the picture."""

import contextlib
import itertools

import numpy as np
from jaxtyping import Float64
from scipy.spatial import ConvexHull, QhullError

from diffax import checks
from diffax.data import Volume
from diffax.operators import CArm, c_arm
from experiments.progress import say
from experiments.radrotator.angles import Angles

TISSUE = -500.0  # HU: above it is body (or table), below air and lung
_MARGIN = 1.03
_AIR_LEFT = 5.0  # mm between the body and the source or the detector


def outline(volume: Volume) -> Float64[np.ndarray, "n 3"]:
    """Points of the world whose convex hull is the body's; ``ValueError`` for a volume of air."""
    body = volume.array > TISSUE
    columns = np.argwhere(body.any(axis=2))
    checks.require(len(columns) > 0, "--volume: largest voxel", float(volume.array.max()),
                   f"a body, with voxels above {TISSUE:g} HU")  # fmt: skip
    lines = body[columns[:, 0], columns[:, 1]]
    ends = (lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1))
    index = np.concatenate([np.column_stack([columns, end]) for end in ends])
    with contextlib.suppress(QhullError):  # a flat body keeps all its points
        index = index[ConvexHull(index).vertices]
    around = np.array(list(itertools.product((-1, 1), repeat=3)))  # as far as a voxel's value reaches
    index = (index[:, None] + around).reshape(-1, 3)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def place(
    arm: CArm,
    body: Float64[np.ndarray, "n 3"],
    views: list[Angles],
    isocentre: tuple[float, float, float],
    sod: float | None,
    spacing: float,
) -> CArm:
    """The C-arm with ``sod`` (None: half of ``sdd``, or more to have the body in between) and ``spacing``.

    A spacing of 0 becomes the one by which the whole body falls on the detector in every view.
    """
    local = np.concatenate([_local(body, angles, isocentre) for angles in views])
    front, behind = float(local[:, 1].max()), float(-local[:, 1].min())
    sod = _choose_sod(arm.sdd, front, behind) if sod is None else sod
    arm = c_arm.check_c_arm(arm._replace(sod=sod, spacing=spacing or 1.0))
    reach = arm.sdd if np.isinf(sod) else arm.sdd - sod
    if front >= min(sod, arm.sdd) or behind >= reach:
        checks.require(bool(spacing) or front < sod, "--sod", sod, f"over {front:.0f} mm, or --spacing=MM")
        say(f"warning: the body reaches {front:.0f} mm towards the source and {behind:.0f} mm towards the "
            "detector: what lies beyond them is not shown")  # fmt: skip
    return arm if spacing else arm._replace(spacing=_fitting(arm, local))


def _choose_sod(sdd: float, front: float, behind: float) -> float:
    front, behind = front + _AIR_LEFT, behind + _AIR_LEFT
    allowed = f"at least {front + behind:.0f} mm, for the body to lie before the detector"
    checks.require(front + behind <= sdd, "--sdd", sdd, allowed)
    return sdd / 2 if max(front, behind) <= sdd / 2 else (front + sdd - behind) / 2


def _fitting(arm: CArm, local: Float64[np.ndarray, "n 3"]) -> float:
    size = 1.0 if np.isinf(arm.sod) else arm.sdd / (arm.sod - local[:, 1:2])
    half = np.abs(local[:, [2, 0]] * size).max(axis=0)
    return float(_MARGIN * np.max(2 * half / np.array(arm.shape)))


def _local(
    body: Float64[np.ndarray, "n 3"], angles: Angles, isocentre: tuple[float, float, float]
) -> Float64[np.ndarray, "n 3"]:
    """Points in the turned C-arm's frame."""
    return (body - np.array(isocentre)) @ np.asarray(c_arm.rotation(*angles), np.float64)
