r"""A linear inverse problem: measurements ``y = A x + n`` with Gaussian noise, and changes of its units.

Samplers hold a volume as a batch of slices, ``(slices, rows, columns, channels)``; operators as images with
the slices last, ``(rows, columns, slices * channels)``. :func:`to_images` and :func:`to_batch` go between.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffax.checks import is_concrete, require
from diffax.operators import LinearOperator, operator_norm, scale
from diffax.types import Scalar


class LinearProblem(NamedTuple):
    """``y = A x + n``, the entries of n independent N(0, noise_std^2) (complex: that variance in all).

    ``noise_std`` is a number, or an array that broadcasts over y (see :func:`whiten`); 0 means no noise.
    """

    operator: LinearOperator
    y: Shaped[Array, "..."]
    noise_std: Scalar | Float[Array, "..."] = 0.0


def normalise(problem: LinearProblem, n_steps: int = 30) -> LinearProblem:
    """The same problem divided by ``||A||``, so that weights of regularisers have no units.

    A weight w of ``w R(x)`` beside ``|A x - y|^2 / 2`` becomes ``w / ||A||^2``. To be done once, outside of
    compiled programs. Raises ``ValueError`` for an operator that is zero.
    """
    size = operator_norm(problem.operator, n_steps)
    if is_concrete(size):
        require(bool(size > 0), "operator: norm", float(size), "above 0")
    return LinearProblem(
        scale(problem.operator, 1 / size), problem.y / size, jnp.asarray(problem.noise_std) / size
    )


def whiten(problem: LinearProblem) -> LinearProblem:
    """Divide each measurement by its standard deviation: then the noise is N(0, 1) in all of them.

    Raises ``ValueError`` where a standard deviation is not positive.
    """
    std = jnp.asarray(problem.noise_std)
    if is_concrete(std):
        require(bool((std > 0).all()), "noise_std", float(std.min()), "above 0 everywhere")
    return LinearProblem(scale(problem.operator, 1 / std), problem.y / std, jnp.ones(()))


def balance(problem: LinearProblem, least: float = 0.3) -> LinearProblem:
    """Measurements weighed by their certainty, with one ``noise_std`` for all that keeps the problem's size.

    Each is multiplied by ``s / noise_std``, ``1 / s^2`` the mean of ``1 / noise_std^2``. What lies below
    ``least`` of the root mean square of ``noise_std`` counts as that: a few rays past the patient, a hundred
    times as certain as the rest, would leave solvers no steps for anything else. A problem whose
    ``noise_std`` is a number stays as it is. Raises ``ValueError`` as :func:`whiten` does.
    """
    std = jnp.asarray(problem.noise_std)
    if std.ndim == 0:
        return problem
    std = jnp.maximum(std, least * jnp.sqrt(jnp.mean(std**2)))
    white, size = whiten(problem._replace(noise_std=std)), jnp.mean(std**-2.0) ** -0.5
    return LinearProblem(scale(white.operator, size), white.y * size, size)


def rescale(problem: LinearProblem, factor: Scalar, offset: Scalar) -> LinearProblem:
    """The problem for v where ``x = factor v + offset``: networks see other units than measurements do.

    ``factor A v = y - A(offset)``; the noise stays. (x in [0, 1] is v in [-1, 1] with factor = offset = 1/2.)
    """
    operator = problem.operator
    constant = operator(jnp.full(operator.in_shape, offset, operator.dtype))
    return LinearProblem(scale(operator, factor), problem.y - constant, problem.noise_std)


def residual(problem: LinearProblem, images: Shaped[Array, "h w n"]) -> Shaped[Array, "..."]:
    """``A x - y``."""
    return problem.operator(images) - problem.y


def to_images(problem: LinearProblem, x: Float[Array, "b h w c"]) -> Shaped[Array, "h w n"]:
    """A batch as what the operator takes, ``(h, w, b c)``.

    What the batch holds beyond the operator's slices (filling, for an even number a device) is left out.
    Raises ``ValueError`` where the shapes do not fit.
    """
    h, w, n = problem.operator.in_shape
    b, *rest = x.shape
    fits = len(rest) == 3 and (rest[0], rest[1]) == (h, w) and n % rest[2] == 0 and b * rest[2] >= n
    require(fits, "x: shape", x.shape, f"(b, {h}, {w}, c) with b c >= {n}, as the operator's {(h, w, n)}")
    return jnp.moveaxis(x[: n // rest[2]], 0, 2).reshape(h, w, n).astype(problem.operator.dtype)


def to_batch(images: Shaped[Array, "h w n"], like: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Images as a batch; what ``like`` holds beyond them stays as it is there."""
    h, w, n = images.shape
    c = like.shape[3]
    batch = jnp.moveaxis(images.reshape(h, w, n // c, c), 2, 0).astype(like.dtype)
    return jnp.concatenate([batch, like[n // c :]]) if like.shape[0] > n // c else batch
