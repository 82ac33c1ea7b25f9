"""Registration without learning, to compare with: diffeomorphic demons, SimpleITK's."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from diffax.checks import require

_SMALLEST = 8  # pixels along each axis at the coarsest level


def demons(
    fixed: Float[np.ndarray, "*s"],
    moving: Float[np.ndarray, "*s"],
    iterations: int = 50,
    std: float = 1.5,
    levels: int = 3,
) -> Float32[np.ndarray, "*s d"]:
    """The flow, in pixels, with ``moving(p + flow(p)) = fixed(p)``, as ``operators.warp`` takes it.

    Args:
      fixed, moving: (rows, columns) or (rows, columns, slices), of one range; values about 1 apart.
      iterations: at each level.
      std: of the Gaussian that smooths the field after each step, in pixels of the level; larger is smoother.
      levels: resolutions, each half of the one before; fewer where axes would get short.

    Vercauteren et al. 2009 (doi 10.1016/j.neuroimage.2008.10.040). Raises ``ValueError`` for unequal shapes,
    other dimensions, or without SimpleITK.
    """
    require(fixed.shape == moving.shape, "moving: shape", moving.shape, f"{fixed.shape}, as fixed")
    require(fixed.ndim in (2, 3), "fixed: shape", fixed.shape, "two or three axes")
    require(iterations >= 1, "iterations", iterations, "an integer >= 1")
    require(std > 0, "std", std, "above 0, in pixels")
    require(levels >= 1, "levels", levels, "an integer >= 1")
    sitk = _simple_itk()
    images = [sitk.GetImageFromArray(np.asarray(v, np.float32)) for v in (fixed, moving)]
    register = sitk.DiffeomorphicDemonsRegistrationFilter()
    register.SetNumberOfIterations(iterations)
    register.SetStandardDeviations(std)
    field: Any = None
    for level in reversed(range(levels)):
        if level and min(fixed.shape) < _SMALLEST << level:
            continue
        still, moved = (_coarser(sitk, image, 2**level) for image in images)
        field = register.Execute(still, moved, *([] if field is None else [_onto(sitk, field, still)]))
    # their components are x, y, z; an array's axes the other way round
    return np.ascontiguousarray(sitk.GetArrayFromImage(field)[..., ::-1], np.float32)


def _coarser(sitk: ModuleType, image: Any, factor: int) -> Any:
    if factor == 1:
        return image
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, factor / 2), [factor] * image.GetDimension())


def _onto(sitk: ModuleType, field: Any, image: Any) -> Any:
    """A field on the grid of an image. Displacements are lengths, which no change of grid scales."""
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(image)
    resample.SetUseNearestNeighborExtrapolator(True)
    return resample.Execute(field)


def _simple_itk() -> ModuleType:
    try:
        return importlib.import_module("SimpleITK")
    except ImportError as error:
        raise ValueError("SimpleITK: got no such package, allowed: pip install SimpleITK") from error
