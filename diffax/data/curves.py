r"""Random monotone curves of grey values: another scanner's look, the same anatomy.

K control points stand at ``r_i = i / (K - 1)``; each inner one moves, in order, to
``f_i ~ U(f_{i-1}, r_{i+1})``, so that the curve rises strictly from ``f_0 = 0`` to ``f_{K-1} = 1``. Images
in [0, 1] become ``interp(x, r, f)``: ranks of pixels stay, and on average over curves so do values. The
algorithm is MONAI's ``RandHistogramShift``; a model that sees input and target under one common curve learns
to keep whatever look it is given (Rouzrokh et al. 2024, arXiv:2404.13000).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffax.checks import require
from diffax.types import Scalar


def random_curve(
    key: Key[Array, ""], points: Int[Array, ""] | int, most: int | None = None
) -> tuple[Float[Array, "most"], Float[Array, "most"]]:
    """Reference and moved control points ``(r, f)``; those beyond ``points`` lie at (1, 1).

    ``points`` may be traced where ``most``, the length of the arrays, is given. Raises ``ValueError`` for
    fewer than 3.
    """
    size = most if most is not None else int(points)
    require(size >= 3, "points", size, "an integer >= 3")
    index = jnp.arange(size)
    last = jnp.asarray(points) - 1
    reference = jnp.minimum(index / last, 1.0)

    def move(before: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        number, after, u = inputs
        moved = jnp.where(number >= last, 1.0, before + u * (after - before))
        return moved, moved

    after = jnp.append(reference[2:], 1.0)
    _, inner = jax.lax.scan(move, jnp.zeros(()), (index[1:], after, jax.random.uniform(key, (size - 1,))))
    return reference, jnp.concatenate([jnp.zeros(1), inner])


def random_curves(
    key: Key[Array, ""],
    images: tuple[Float[Array, "b ..."], ...],
    *,
    points: tuple[int, int] = (3, 10),
    probability: Scalar = 0.9,
) -> tuple[Float[Array, "b ..."], ...]:
    """Images of a batch in [0, 1], those of a row under one common curve, with a curve of its own each row.

    ``points``: the least and the largest number of control points; with ``1 - probability`` a row stays as
    it is, bit for bit. Raises ``ValueError`` for fewer than 3 points.
    """
    low, high = points
    require(3 <= low <= high, "points", points, "(low, high) with 3 <= low <= high")
    batch = images[0].shape[0]
    count_key, curve_key, chosen_key = jax.random.split(key, 3)
    counts = jax.random.randint(count_key, (batch,), low, high + 1)
    chosen = jax.random.uniform(chosen_key, (batch,)) < probability
    curves = jax.vmap(lambda k, n: random_curve(k, n, high))(jax.random.split(curve_key, batch), counts)

    def bend(image: Array, r: Array, f: Array, yes: Array) -> Array:
        return jnp.where(yes, jnp.interp(image, r, f), image)

    return tuple(jax.vmap(bend)(image, *curves, chosen) for image in images)


def to_unit(images: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Each image from its own least value to its largest; a constant one becomes 0.

    Curves that input and target share need both in the same range: this one.
    """
    axes = tuple(range(1, images.ndim))
    low, high = images.min(axis=axes, keepdims=True), images.max(axis=axes, keepdims=True)
    span = high - low
    return jnp.where(span > 0, (images - low) / jnp.where(span > 0, span, 1.0), 0.0)
