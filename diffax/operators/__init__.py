"""Linear operators of measurements, each with its adjoint."""

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
from diffax.operators.images import differences, gradient, gradient_norm
from diffax.operators.tomography import ParallelBeam, parallel_beam

__all__ = [
    "LinearOperator",
    "ParallelBeam",
    "compose",
    "differences",
    "dot_test",
    "gradient",
    "gradient_norm",
    "identity",
    "inner",
    "norm",
    "operator_norm",
    "parallel_beam",
    "random_like",
    "real_images",
    "scale",
]
