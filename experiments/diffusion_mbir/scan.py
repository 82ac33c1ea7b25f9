"""Measurements as a file: what was measured, under which geometry, and where the volume lies in the patient.

``scan.npz`` holds ``y`` (measurements, slices last), ``angles`` or ``mask``, ``affine`` of the volume and
``about``, JSON with the rest. Volumes stand as images with slices last, ``(rows, columns, slices)``: each
slice as radiologists look at it, slices towards the head, values mapped from ``value_range`` to [0, 1].
"""

import json
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from diffax import checks
from diffax.data.volume import Volume
from diffax.inverse import LinearProblem
from diffax.io.samples import write_npz
from diffax.operators import LinearOperator, ParallelBeam, cartesian_mask, cartesian_mri, real_images

MODALITIES = {"sparse_view": "ct", "limited_angle": "ct", "mri": "mr"}


class Geometry(NamedTuple):
    """What a scanner measures of a volume of ``shape`` (rows, columns, slices).

    CT: ``angles`` in radians from the image's +x, ``detectors`` bins of a pixel. MRI: a ``mask`` of k-space.
    """

    task: str
    shape: tuple[int, int, int]
    angles: Float[np.ndarray, "views"] | None = None
    detectors: int = 0
    mask: Bool[np.ndarray, "rows columns"] | None = None

    @property
    def modality(self) -> str:
        """ "ct" or "mr"."""
        return MODALITIES[self.task]

    def operator(self) -> LinearOperator:
        """From images in [0, 1] to measurements: line integrals in pixels, or orthonormal k-space."""
        checks.require_one_of("scan: task", self.task, MODALITIES)
        if self.task == "mri":
            checks.require(self.mask is not None, "scan: mask", None, "the mask of k-space")
            assert self.mask is not None
            return real_images(cartesian_mri(self.mask, self.shape))
        checks.require(self.angles is not None, "scan: angles", None, "the views")
        return self.beam().operator()

    def beam(self) -> ParallelBeam:
        """The geometry of CT."""
        assert self.angles is not None
        return ParallelBeam(self.shape, self.angles, self.detectors)


class Scan(NamedTuple):
    """Measurements ``y = A x + n`` of a volume, x in [0, 1] for values in ``value_range``.

    ``affine`` places the volume's voxels, on the axes of :class:`diffax.data.volume.Volume`; ``source`` says
    what was measured. ``noise_std`` is that of n, or its mean over measurements where ``std`` has each one's
    own.
    """

    geometry: Geometry
    y: Shaped[np.ndarray, "..."]
    affine: Float[np.ndarray, "4 4"]
    value_range: tuple[float, float]
    noise_std: float = 0.0
    source: str = ""
    std: Float[np.ndarray, "..."] | None = None

    def problem(self) -> LinearProblem:
        """The measurements as an inverse problem, in the scanner's own units."""
        std = self.noise_std if self.std is None else self.std
        return LinearProblem(self.geometry.operator(), jnp.asarray(self.y), jnp.asarray(std))


def check(scan: Scan) -> Scan:
    """The scan itself; ``ValueError`` where its parts do not fit each other."""
    low, high = scan.value_range
    checks.require(low < high, "scan: value_range", scan.value_range, "(low, high) with low < high")
    checks.require(scan.noise_std >= 0, "scan: noise_std", scan.noise_std, "a number >= 0")
    operator = scan.geometry.operator()
    allowed = f"{operator.out_shape}, as its geometry says"
    checks.require(scan.y.shape == operator.out_shape, "scan: shape of y", scan.y.shape, allowed)
    kind = np.result_type(scan.y.dtype, operator.out_dtype)
    checks.require(kind == operator.out_dtype, "scan: dtype of y", str(scan.y.dtype), str(operator.out_dtype))
    checks.require(bool(np.isfinite(scan.y).all()), "scan: y", "nan or inf", "finite values")
    if scan.std is not None:
        allowed = f"{scan.y.shape} numbers above 0"
        fits = scan.std.shape == scan.y.shape and bool((np.isfinite(scan.std) & (scan.std > 0)).all())
        checks.require(fits, "scan: std", scan.std.shape, allowed)
    checks.require(scan.affine.shape == (4, 4), "scan: shape of affine", scan.affine.shape, "(4, 4)")
    return scan


def write_scan(path: str | Path, scan: Scan) -> None:
    """Write ``scan.npz``, whole or not at all."""
    checks.require(Path(path).suffix == ".npz", "--out", str(path), "a name that ends in .npz")
    geometry = scan.geometry
    about = {
        "task": geometry.task,
        "shape": geometry.shape,
        "detectors": geometry.detectors,
        "value_range": scan.value_range,
        "noise_std": scan.noise_std,
        "source": scan.source,
    }
    arrays = {"y": scan.y, "affine": scan.affine, "std": scan.std}
    arrays |= {"angles": geometry.angles, "mask": geometry.mask}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    write_npz(Path(path), about=np.asarray(json.dumps(about)), **arrays)


def read_scan(path: str | Path) -> Scan:
    """Read ``scan.npz``; ``ValueError`` naming the file where it is damaged, no scan, or not consistent."""
    checks.require(Path(path).is_file(), "--measurements", str(path), "an existing scan (.npz)")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        geometry = Geometry(
            about["task"], tuple(about["shape"]), arrays.get("angles"), about["detectors"], arrays.get("mask")
        )
        low, high = about["value_range"]
        said = (about["noise_std"], about["source"], arrays.get("std"))
        return check(Scan(geometry, arrays["y"], arrays["affine"], (low, high), *said))
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error} (allowed: a scan as simulate writes it)") from error


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


def make_geometry(
    task: str,
    shape: tuple[int, int, int],
    *,
    views: int = 8,
    arc: float = 180.0,
    acceleration: float = 4.0,
    mask_kind: str = "uniform1d",
    centre: float = 0.08,
    seed: int = 0,
) -> Geometry:
    """``views`` evenly over ``arc`` degrees from 0 (the end left out), or a mask of that acceleration.

    The detector is as wide as a slice's diagonal, in bins of a pixel.
    """
    checks.require_one_of("--task", task, MODALITIES)
    if task == "mri":
        mask = cartesian_mask(shape[:2], mask_kind, acceleration, centre=centre, seed=seed)
        return Geometry(task, shape, mask=mask)
    checks.require(views >= 1, "--views", views, "an integer >= 1")
    checks.require(0 < arc <= 360, "--arc", arc, "degrees in (0, 360]")
    return Geometry(
        task, shape, np.deg2rad(np.arange(views) * arc / views), math.ceil(math.hypot(*shape[:2]))
    )


def simulate(
    geometry: Geometry,
    images: Float[np.ndarray, "rows columns slices"],
    affine: Float[np.ndarray, "4 4"],
    value_range: tuple[float, float],
    *,
    noise: float = 0.0,
    counts: float = 0.0,
    attenuation: float = 0.02,
    seed: int = 0,
    source: str = "",
) -> Scan:
    """Measure images.

    ``noise`` is a standard deviation, as a share of the largest line integral of CT, or of the root mean
    square of measured k-space. ``counts`` (CT) instead draws Poisson numbers of photons, so many without the
    patient, with ``attenuation`` a pixel at image value 1; what arrives is turned back into line integrals,
    whose ``std`` is ``1 / (attenuation sqrt(arrived))``.
    """
    checks.require(noise >= 0 and counts >= 0, "--noise, --counts", (noise, counts), "numbers >= 0")
    y = np.asarray(jax.jit(lambda a, x: a(x))(geometry.operator(), jnp.asarray(images)))
    rng = np.random.Generator(np.random.Philox(seed))
    each = None
    if counts:
        allowed = "CT, and no --noise beside it"
        checks.require(geometry.modality == "ct" and not noise, "--counts", counts, allowed)
        arrived = np.maximum(rng.poisson(counts * np.exp(-attenuation * y.astype(np.float64))), 0.5)
        each = (1 / (attenuation * np.sqrt(arrived))).astype(np.float32)
        std = float(np.sqrt(np.mean(each**2)))
        y = (np.log(counts / arrived) / attenuation).astype(np.float32)
    else:
        std = noise * _size(y, geometry.mask)
        y = _with_noise(rng, y, std, geometry.mask)
    return check(Scan(geometry, y, affine, value_range, std, source, each))


def _size(y: np.ndarray, mask: np.ndarray | None) -> float:
    return float(np.abs(y).max() if mask is None else np.sqrt(np.mean(np.abs(y[mask]) ** 2)))


def _with_noise(rng: np.random.Generator, y: np.ndarray, std: float, mask: np.ndarray | None) -> np.ndarray:
    if std == 0:
        return y
    if mask is None:
        return (y + std * rng.standard_normal(y.shape)).astype(np.float32)
    noise = (rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape)) * (std / math.sqrt(2))
    return (y + noise * mask[..., None]).astype(np.complex64)
