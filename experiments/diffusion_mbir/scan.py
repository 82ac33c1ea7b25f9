"""Measurements as a file: what was measured, under which geometry, and where the volume lies in the patient.

``scan.npz`` holds ``y`` (measurements, slices last), ``angles`` or ``mask``, ``affine`` of the volume and
``about``, JSON with the rest. Volumes stand as images with slices last, ``(rows, columns, slices)``: each
slice as radiologists look at it, slices towards the head, values mapped from ``value_range`` to [0, 1].
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from diffax import checks
from diffax.data.volume import Volume
from diffax.inverse import LinearProblem
from diffax.io.samples import write_npz
from diffax.operators import LinearOperator, ParallelBeam, cartesian_mri, real_images

TASKS = ("sparse_view", "limited_angle", "mri")
MODALITIES = {"sparse_view": "ct", "limited_angle": "ct", "mri": "mr"}


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """Measurements ``y = A x + n`` of a volume, x in [0, 1] for values in ``value_range``.

    CT: ``y[view, bin, slice]`` are line integrals in pixels, ``angles`` in radians from the image's +x.
    MRI: ``y[row, column, slice]`` is orthonormal k-space times ``mask``.
    """

    task: str
    y: Shaped[np.ndarray, "..."]
    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]  # of the volume on RAS+ axes, in mm
    value_range: tuple[float, float]
    noise_std: float = 0.0
    angles: Float[np.ndarray, "views"] | None = None
    detectors: int = 0
    mask: Bool[np.ndarray, "rows columns"] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        checks.require_one_of("scan: task", self.task, TASKS)
        low, high = self.value_range
        checks.require(low < high, "scan: value_range", self.value_range, "(low, high) with low < high")
        checks.require(self.noise_std >= 0, "scan: noise_std", self.noise_std, "a number >= 0")
        expected = self.operator().out_shape
        checks.require(
            self.y.shape == expected, "scan: shape of y", self.y.shape, f"{expected}, as its geometry says"
        )
        checks.require(bool(np.isfinite(self.y).all()), "scan: y", "nan or inf", "finite values")

    @property
    def modality(self) -> str:
        """ "ct" or "mr"."""
        return MODALITIES[self.task]

    def operator(self) -> LinearOperator:
        """The scanner, from images in [0, 1] to y."""
        if self.task == "mri":
            checks.require(self.mask is not None, "scan: mask", None, "the mask of k-space")
            return real_images(cartesian_mri(self.mask, self.shape))
        checks.require(self.angles is not None and self.detectors >= 1, "scan: angles, detectors",
                       (self.angles, self.detectors), "the views and the bins of each")  # fmt: skip
        return ParallelBeam(self.shape, self.angles, self.detectors).operator()

    def problem(self) -> LinearProblem:
        """The measurements as an inverse problem, in the scanner's own units."""
        return LinearProblem(self.operator(), jnp.asarray(self.y), self.noise_std)


def write_scan(path: str | Path, scan: Scan) -> None:
    """Write ``scan.npz``, whole or not at all."""
    values = dataclasses.asdict(scan)
    arrays = {name: values.pop(name) for name in ("y", "affine", "angles", "mask")}
    checks.require(Path(path).suffix == ".npz", "--out", str(path), "a name that ends in .npz")
    write_npz(
        Path(path),
        about=np.asarray(json.dumps(values)),
        **{name: value for name, value in arrays.items() if value is not None},
    )


def read_scan(path: str | Path) -> Scan:
    """Read ``scan.npz``; ``ValueError`` naming the file for one that is damaged, not a scan, or not consistent."""
    checks.require(Path(path).is_file(), "--measurements", str(path), "an existing scan (.npz)")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        about = {k: tuple(v) if isinstance(v, list) else v for k, v in about.items()}
        return Scan(**about, **arrays)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}, allowed: a scan as simulate writes it") from error


def as_images(volume: Volume, value_range: tuple[float, float]) -> Float[np.ndarray, "rows columns slices"]:
    """Axial slices as displayed, slices last; values clipped and mapped to [0, 1]."""
    low, high = value_range
    unit = np.clip((volume.array - low) / (high - low), 0, 1)
    return np.ascontiguousarray(unit[::-1, ::-1].transpose(1, 0, 2), np.float32)


def as_volume(images: Float[np.ndarray, "rows columns slices"], scan: Scan) -> Volume:
    """The reverse of :func:`as_images`, in the patient's frame and the source's units."""
    low, high = scan.value_range
    array = np.asarray(images, np.float32).transpose(1, 0, 2)[::-1, ::-1] * (high - low) + low
    return Volume(np.ascontiguousarray(array, np.float32), scan.affine)


def simulate(
    task: str,
    images: Float[np.ndarray, "rows columns slices"],
    *,
    affine: Float[np.ndarray, "4 4"],
    value_range: tuple[float, float],
    views: int = 8,
    arc: float = 180.0,
    mask: Bool[np.ndarray, "rows columns"] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    source: str = "",
) -> Scan:
    """Measure a volume: ``views`` over ``arc`` degrees from 0 (the end left out), or a mask of k-space.

    ``noise`` is the standard deviation beside the largest measurement of CT, or the root mean square of those of MRI.
    The detector is as wide as the slice's diagonal, in bins of a pixel.
    """
    rows, columns, _ = images.shape
    angles, detectors = None, 0
    if MODALITIES[task] == "ct":
        checks.require(views >= 1, "--views", views, "an integer >= 1")
        angles, detectors = np.deg2rad(np.arange(views) * arc / views), int(np.ceil(np.hypot(rows, columns)))
    blank = Scan.__new__(Scan)
    for name, value in {
        "task": task,
        "shape": images.shape,
        "angles": angles,
        "detectors": detectors,
        "mask": mask,
    }.items():
        object.__setattr__(blank, name, value)
    y = np.asarray(jax.jit(lambda a, x: a(x))(blank.operator(), jnp.asarray(images)))
    std = noise * float(np.abs(y).max() if task != "mri" else np.sqrt(np.mean(np.abs(y[mask]) ** 2)))
    y = _noisy(y, std, mask, seed)
    return Scan(task, y, images.shape, affine, value_range, std, angles, detectors, mask, source)


def _noisy(y: np.ndarray, std: float, mask: np.ndarray | None, seed: int) -> np.ndarray:
    if std == 0:
        return y
    rng = np.random.Generator(np.random.Philox(seed))
    if not np.iscomplexobj(y):
        return (y + std * rng.standard_normal(y.shape)).astype(np.float32)
    noise = (rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape)) * std / np.sqrt(2)
    return (y + noise * np.asarray(mask)[..., None]).astype(np.complex64)


def unit_images(scan: Scan, volume: Volume) -> Float[np.ndarray, "rows columns slices"]:
    """A reference volume as images to compare with; ``ValueError`` where it is not the scan's size."""
    images = as_images(volume, scan.value_range)
    checks.require(
        images.shape == scan.shape, "--reference: shape", images.shape, f"{scan.shape}, as the scan's"
    )
    return images


def to_device(images: Any) -> Array:
    """Images as float32 on the device."""
    return jnp.asarray(images, jnp.float32)
