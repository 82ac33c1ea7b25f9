r"""Images moved by displacement fields: warps, their composition and inverse, and whether they fold.

A field ``flow`` (b, *s, d) has the displacement of each pixel in pixels, one component for each of the d = 2
or 3 spatial axes in their order; it maps the place p to ``p + flow(p)``. Images are (b, *s, c).
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffax.checks import require

_FLAT = 1e-5  # squared share of an image's variance below which a window has no structure to correlate


def warp(image: Float[Array, "b *s c"], flow: Float[Array, "b *t d"]) -> Float[Array, "b *t c"]:
    r"""``out(p) = image(p + flow(p))``: linear interpolation, the edge's pixel repeated outside.

    Differentiable in both; where the flow reaches a pixel exactly its derivative is that towards the next
    pixel. The derivative in the image scatters, which is slow on a CPU. Raises ``ValueError`` for unequal
    spatial shapes, or a flow that has not one component for each of 2 or 3 axes.
    """
    shape = _grid_shape(flow)
    require(image.shape[1:-1] == shape, "image: spatial shape", image.shape[1:-1], f"{shape}, as the flow")
    corners = [_neighbours(place, n) for place, n in zip(_places(flow), shape, strict=True)]
    flat = image.reshape(image.shape[0], -1, image.shape[-1])
    result = jnp.zeros((), image.dtype)
    for choice in itertools.product((0, 1), repeat=len(shape)):
        index, weight = jnp.zeros((), jnp.int32), jnp.ones((), flow.dtype)
        for side, (indices, weights), n in zip(choice, corners, shape, strict=True):
            index, weight = index * n + indices[side], weight * weights[side]
        result = result + weight.astype(image.dtype)[..., None] * _rows(flat, index)
    return result


def warp_labels(labels: Int[Array, "b *s"], flow: Float[Array, "b *s d"], classes: int) -> Int[Array, "b *s"]:
    r"""Labels 0 .. ``classes - 1`` moved as :func:`warp` moves images: at each pixel the label of which the
    interpolation brings the largest share, the smallest of equal ones. Raises as :func:`warp`.
    """
    require(classes >= 1, "classes", classes, "an integer >= 1")
    return jnp.argmax(warp(jax.nn.one_hot(labels, classes), flow), axis=-1).astype(jnp.int32)


def compose(first: Float[Array, "b *s d"], second: Float[Array, "b *s d"]) -> Float[Array, "b *s d"]:
    r"""The flow of both warps: ``warp(x, compose(first, second)) = warp(warp(x, first), second)``.

    ``second(p) + first(p + second(p))``; the images agree up to the blur of interpolating twice, and where
    nothing comes from outside. Raises as :func:`warp`.
    """
    return second + warp(first, second)


def invert(flow: Float[Array, "b *s d"], iterations: int = 20) -> Float[Array, "b *s d"]:
    r"""The flow v with ``v(p) + flow(p + v(p)) = 0``, by the fixed point ``v <- -flow(p + v)`` from 0.

    The error shrinks in each step by the largest slope of the flow, which must be below 1; see
    :func:`inverse_consistency`. Chen et al. 2008 (doi 10.1118/1.2816107). Raises as :func:`warp`.
    """
    require(iterations >= 1, "iterations", iterations, "an integer >= 1")
    return jax.lax.fori_loop(0, iterations, lambda _, v: -warp(flow, v), jnp.zeros_like(flow))


def inverse_consistency(flow: Float[Array, "b *s d"], inverse: Float[Array, "b *s d"]) -> Float[Array, "b"]:
    r"""Mean over pixels of ``|compose(flow, inverse)|``, in pixels: 0 where ``inverse`` undoes the flow.

    Near edges that points cross it is not 0 for a true inverse, because the flow outside is its edge's.
    """
    residual = compose(flow, inverse)
    length = jnp.sqrt(jnp.sum(residual**2, axis=-1) + 1e-20)  # with a derivative at 0
    return jnp.mean(length, axis=tuple(range(1, length.ndim)))


def jacobian_determinant(flow: Float[Array, "b *s d"]) -> Float[Array, "b *s"]:
    r"""Determinant of the derivative of ``p + flow(p)``: how much the volume about p grows; <= 0 in a fold.

    Central differences inside, one-sided ones at the edges. Raises ``ValueError`` for an axis of one pixel.
    """
    shape = _grid_shape(flow)
    require(min(shape) >= 2, "flow: spatial shape", shape, "at least 2 pixels along each axis")
    slopes = jnp.gradient(flow, axis=tuple(range(1, flow.ndim - 1)))
    return jnp.linalg.det(jnp.stack(slopes, axis=-1) + jnp.eye(len(shape), dtype=flow.dtype))


def folding_share(flow: Float[Array, "b *s d"]) -> Float[Array, "b"]:
    r"""Share of each field's pixels with :func:`jacobian_determinant` <= 0: there it is not one to one."""
    folded = jacobian_determinant(flow) <= 0
    return jnp.mean(folded.astype(flow.dtype), axis=tuple(range(1, folded.ndim)))


def random_flow(
    key: Key[Array, ""], batch: int, shape: Sequence[int], pixels: tuple[float, float], control: int = 4
) -> Float[Array, "b *s d"]:
    r"""Smooth fields: normal draws on ``control`` points along each axis, resized by cubic interpolation.

    Args:
      key: a field depends on it and on its own place in the batch, not on the batch's size.
      shape: (rows, columns) or (rows, columns, slices).
      pixels: (low, high); each field is scaled so that its longest displacement is U(low, high).

    Slopes are at most about 2.5 times that over the distance between control points, ``shape / control``:
    fields do not fold below 0.4 of this distance, and 0.5 folds few (:func:`folding_share`). Raises
    ``ValueError`` for another shape or range.
    """
    shape = tuple(shape)
    low, high = pixels
    require(len(shape) in (2, 3) and min(shape) >= 1, "shape", shape, "2 or 3 lengths, each at least 1")
    require(0 <= low <= high < math.inf, "pixels", pixels, "0 <= low <= high, in pixels")
    require(batch >= 1, "batch", batch, "an integer >= 1")
    require(control >= 1, "control", control, "an integer >= 1")

    def draw(number: Int[Array, ""]) -> Float[Array, "*s d"]:
        points, size = jax.random.split(jax.random.fold_in(key, number))
        coarse = jax.random.normal(points, (control,) * len(shape) + (len(shape),))
        field = jax.image.resize(coarse, (*shape, len(shape)), "cubic", antialias=False)
        longest = jnp.sqrt(jnp.max(jnp.sum(field**2, axis=-1)))
        return field * (jax.random.uniform(size, minval=low, maxval=high) / longest)

    return jax.vmap(draw)(jnp.arange(batch))


def smoothness(flow: Float[Array, "b *s d"]) -> Float[Array, "b"]:
    r"""Mean square of the forward differences of all components along all axes: the diffusion regulariser.

    ``|G|^2 / d^2`` for a field of constant slopes G. Raises ``ValueError`` for an axis of one pixel.
    """
    shape = _grid_shape(flow)
    require(min(shape) >= 2, "flow: spatial shape", shape, "at least 2 pixels along each axis")
    each = tuple(range(1, flow.ndim))
    terms = [jnp.mean(jnp.diff(flow, axis=axis) ** 2, axis=each) for axis in each[:-1]]
    return jnp.mean(jnp.stack(terms), axis=0)


def local_ncc(a: Float[Array, "b *s c"], b: Float[Array, "b *s c"], window: int = 9) -> Float[Array, "b"]:
    r"""Mean over pixels of ``cov(a, b)^2 / (var(a) var(b))`` in windows about them; 0 to 1, the best.

    Windows are ``window`` pixels along each axis, cut off at the edges. What each window adds and multiplies
    does not matter, nor its sign. A window in which both have less than about 0.3 % of their image's
    variance counts as 0. Avants et al. 2008 (doi 10.1016/j.media.2007.06.004). Raises ``ValueError`` for an
    even window or unequal shapes.
    """
    require(a.shape == b.shape, "b: shape", b.shape, f"{a.shape}, as a")
    require(window >= 1 and window % 2 == 1, "window", window, "an odd number")
    a, b = _standardized(a), _standardized(b)
    count = _window_sums(jnp.ones_like(a[:1, ..., :1]), window)
    ma, mb, aa, bb, ab = (_window_sums(v, window) / count for v in (a, b, a * a, b * b, a * b))
    var_a, var_b = jnp.maximum(aa - ma * ma, 0), jnp.maximum(bb - mb * mb, 0)
    ratio = (ab - ma * mb) ** 2 / (var_a * var_b + _FLAT)
    return jnp.mean(ratio, axis=tuple(range(1, ratio.ndim)))


def _grid_shape(flow: Float[Array, "b *s d"]) -> tuple[int, ...]:
    valid = flow.ndim in (4, 5) and flow.shape[-1] == flow.ndim - 2
    require(valid, "flow: shape", flow.shape, "(b, rows, columns, 2) or (b, rows, columns, slices, 3)")
    return flow.shape[1:-1]


def _places(flow: Float[Array, "b *s d"]) -> list[Float[Array, "b *s"]]:
    """Where each pixel looks, kept inside the image, one array for each axis."""
    shape = flow.shape[1:-1]
    grid = jnp.meshgrid(*(jnp.arange(n, dtype=flow.dtype) for n in shape), indexing="ij", sparse=True)
    return [jnp.clip(own + flow[..., axis], 0, shape[axis] - 1) for axis, own in enumerate(grid)]


def _neighbours(
    place: Float[Array, "b *s"], n: int
) -> tuple[tuple[Int[Array, "b *s"], Int[Array, "b *s"]], tuple[Float[Array, "b *s"], Float[Array, "b *s"]]]:
    """Indices of the two pixels beside each place along an axis of n, and their weights."""
    floor = jnp.floor(place)
    lower, share = floor.astype(jnp.int32), place - floor
    return (lower, jnp.minimum(lower + 1, n - 1)), (1 - share, share)


def _rows(flat: Float[Array, "b p c"], index: Int[Array, "b *s"]) -> Float[Array, "b *s c"]:
    return jax.vmap(lambda image, places: image.at[places].get(mode="clip"))(flat, index)


def _standardized(x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
    """Mean 0 and variance 1 in each channel, which windows' correlations do not notice."""
    axes = tuple(range(1, x.ndim - 1))
    mean, std = jax.lax.stop_gradient((x.mean(axes, keepdims=True), x.std(axes, keepdims=True)))
    return (x - mean) / jnp.maximum(std, jnp.finfo(x.dtype).tiny)


def _window_sums(x: Float[Array, "b *s c"], window: int) -> Float[Array, "b *s c"]:
    """Sums over the window about each pixel, of what lies inside the image, one axis after the other."""
    for axis in range(1, x.ndim - 1):
        widths = [(window // 2,) * 2 if a == axis else (0, 0) for a in range(x.ndim)]
        padded, n = jnp.pad(x, widths), x.shape[axis]
        parts = [jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(window)]
        x = sum(parts[1:], parts[0])
    return x
