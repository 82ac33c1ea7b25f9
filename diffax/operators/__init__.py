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

__all__ = [
    "LinearOperator",
    "compose",
    "dot_test",
    "identity",
    "inner",
    "norm",
    "operator_norm",
    "random_like",
    "real_images",
    "scale",
]
