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
from diffax.operators.fan_beam import fan_beam
from diffax.operators.tomography import ParallelBeam, parallel_beam

__all__ = [
    "LinearOperator",
    "ParallelBeam",
    "compose",
    "dot_test",
    "fan_beam",
    "identity",
    "inner",
    "norm",
    "operator_norm",
    "parallel_beam",
    "random_like",
    "real_images",
    "scale",
]
