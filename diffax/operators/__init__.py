"""Linear operators of measurements, each with its adjoint."""

from diffax.operators import attenuation, c_arm, warping
from diffax.operators.base import (
    LinearOperator,
    compose,
    dot_test,
    identity,
    inner,
    norm,
    operator_norm,
    random_like,
    real_images,
    scale,
)
from diffax.operators.c_arm import CArm, Pose, Rays
from diffax.operators.ellipsoids import Ellipsoids, render_ellipsoids
from diffax.operators.fan_beam import fan_beam
from diffax.operators.images import (
    blur,
    differences,
    downsample,
    gaussian_kernel,
    gradient,
    gradient_norm,
    masked,
)
from diffax.operators.mri import birdcage_maps, cartesian_mask, cartesian_mri, true_acceleration
from diffax.operators.ray_casting import cone_beam, render
from diffax.operators.tomography import ParallelBeam, parallel_beam
from diffax.operators.warping import (
    folding_share,
    inverse_consistency,
    jacobian_determinant,
    local_ncc,
    random_flow,
    smoothness,
    warp,
    warp_labels,
)

__all__ = [
    "CArm",
    "Ellipsoids",
    "LinearOperator",
    "ParallelBeam",
    "Pose",
    "Rays",
    "attenuation",
    "birdcage_maps",
    "blur",
    "c_arm",
    "cartesian_mask",
    "cartesian_mri",
    "compose",
    "cone_beam",
    "differences",
    "dot_test",
    "downsample",
    "fan_beam",
    "folding_share",
    "gaussian_kernel",
    "gradient",
    "gradient_norm",
    "identity",
    "inner",
    "inverse_consistency",
    "jacobian_determinant",
    "local_ncc",
    "masked",
    "norm",
    "operator_norm",
    "parallel_beam",
    "random_flow",
    "random_like",
    "real_images",
    "render",
    "render_ellipsoids",
    "scale",
    "smoothness",
    "true_acceleration",
    "warp",
    "warp_labels",
    "warping",
]
