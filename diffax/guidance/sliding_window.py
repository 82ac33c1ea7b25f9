r"""From small windows to images and volumes of any size: cut, evaluate, blend.

    f(x)[p] = sum_i w_i(p) f(window_i of x)[p - start_i],    sum_i w_i(p) = 1

The windows of an axis start at equal distances and the last one ends where the image does. A weight is a
product over the axes, each normalised on its own: where Gaussians' tails meet in a corner of a volume, their
products would be too small to divide by in float32.

Source of the weights: Isensee et al. 2021 (nnU-Net, doi:10.1038/s41592-020-01008-z), appendix.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffax import checks
from diffax.types import Cond, DenoiseFn, DenoiseTransform

BLENDS = ("constant", "gaussian")


class Windows(NamedTuple):
    """Where n windows of an axis start, and how much each counts at each of its pixels."""

    starts: np.ndarray  # Int["n"]
    weights: np.ndarray  # Float["n window"], one in sum over the windows that cover a pixel


def windows_of(size: int, window: int, overlap: float, blend: str) -> Windows:
    """Cover an axis: neighbours share at least ``overlap`` of a window (rounded to whole pixels)."""
    checks.require(1 <= window <= size, "window", window, f"1 to the image's {size} pixels")
    stride = max(1, math.floor(window * (1.0 - overlap) + 1e-9))
    count = math.ceil((size - window) / stride) + 1
    starts = np.rint(np.linspace(0, size - window, count)).astype(np.int32)
    place = (np.arange(window) - 0.5 * (window - 1)) / (0.125 * window)
    profile = np.exp(-0.5 * place**2) if blend == "gaussian" else np.ones(window)
    total = np.zeros(size)
    for start in starts:
        total[start : start + window] += profile
    weights = np.stack([profile / total[start : start + window] for start in starts])
    return Windows(starts, weights.astype(np.float32))


def sliding_window(
    window: Sequence[int], overlap: float = 0.5, *, blend: str = "gaussian", at_once: int = 1
) -> DenoiseTransform:
    """Make a denoiser of windows one of images (b, h, w, c) or volumes (b, d, h, w, c) of any size.

    Entries of ``cond`` that have the image's size behind their batch axis, such as "concat", are cut along;
    "label", "vector", "unconditional" and others go to every window as they are.

    Args:
      window: what the denoiser takes: (height, width) or (depth, height, width).
      overlap: in [0, 1), the part of a window that its neighbour covers as well.
      blend: "gaussian" (of width an eighth of the window) or "constant" weights.
      at_once: windows of each sample in one call. Memory does not grow with their number, nor does the
        gradient's: it computes every call again.

    Raises:
      ValueError: for an image smaller than the window or with other axes, and for options outside of these.
    """
    _check(window, overlap, blend, at_once)

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def whole(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            return _blended(lambda parts: denoise(*parts), (x, t, cond), x, window, overlap, blend, at_once)

        return whole

    return transform


def over_windows(
    function: Callable[[Array], Array],
    x: Float[Array, "b ..."],
    window: Sequence[int],
    overlap: float = 0.5,
    *,
    blend: str = "gaussian",
    at_once: int = 1,
) -> Float[Array, "b ..."]:
    """A function of windows, such as a network that segments, applied to a whole image or volume.

    ``function`` takes (n, \\*window, c) to (n, \\*window, k), of any k; the result is (b, \\*size, k): blend
    logits, for instance. Arguments and errors are those of :func:`sliding_window`.
    """
    _check(window, overlap, blend, at_once)
    return _blended(function, x, x, window, overlap, blend, at_once)


def _check(window: Sequence[int], overlap: float, blend: str, at_once: int) -> None:
    checks.require(len(window) > 0, "window", window, "a length for each axis of the image")
    checks.require(0 <= overlap < 1, "overlap", overlap, "a number in [0, 1)")
    checks.require(at_once >= 1, "at_once", at_once, "1 or more")
    checks.require_one_of("blend", blend, BLENDS)


def _blended(
    function: Callable[[Any], Array],
    inputs: Any,
    x: Float[Array, "b ..."],
    window: Sequence[int],
    overlap: float,
    blend: str,
    at_once: int,
) -> Float[Array, "b ..."]:
    """The weighted sum over windows of a function of the tree ``inputs``, cut to windows of ``x``."""
    axes = f"(batch, {len(window)} axes of pixels, channels)"
    checks.require(x.ndim == len(window) + 2, "x.shape", x.shape, axes)
    size = x.shape[1:-1]
    grid = [windows_of(n, side, overlap, blend) for n, side in zip(size, window, strict=True)]
    starts, weights, counts = _chunks(grid, at_once)

    def cut(leaf: Array, corners: Array) -> Array:
        """The windows of a leaf, or the leaf for each window, as one batch."""
        if leaf.shape[1 : 1 + len(size)] == size:
            parts = jax.vmap(lambda corner: _slice(leaf, corner, window))(corners)
        else:
            parts = jnp.broadcast_to(leaf, (len(corners), *leaf.shape))
        return parts.reshape(-1, *parts.shape[2:])

    @jax.checkpoint  # the sum is linear: its gradient needs nothing of a window before it gets there
    def weighted(corners: Array, profiles: list[Array], counted: Array) -> Array:
        output = function(jax.tree.map(lambda leaf: cut(jnp.asarray(leaf), corners), inputs))
        expected = (len(corners) * x.shape[0], *window)
        checks.require(output.shape[:-1] == expected, "output of a window", output.shape, f"{expected}, k")
        output = output.reshape(len(corners), x.shape[0], *output.shape[1:])
        return output * _outer(profiles, counted)[:, None, ..., None].astype(output.dtype)

    def add(total: Array, chunk: tuple[Array, list[Array], Array]) -> tuple[Array, None]:
        return lax.scan(_paste, total, (chunk[0], weighted(*chunk)))

    chunks = (starts, weights, counts)
    like = jax.eval_shape(weighted, *jax.tree.map(lambda leaf: leaf[0], chunks))
    zero = jnp.zeros((x.shape[0], *size, like.shape[-1]), like.dtype)
    return lax.scan(add, zero, chunks)[0]


def _chunks(grid: Sequence[Windows], at_once: int) -> tuple[Array, list[Array], Array]:
    """All windows in groups: corners (m, k, axes), weights of each axis (m, k, window), whether it counts.

    Groups are filled up with windows that do not count.
    """
    places = np.array(list(itertools.product(*(range(len(axis.starts)) for axis in grid))))
    group = min(at_once, len(places))
    extra = -len(places) % group
    places = np.pad(places, ((0, extra), (0, 0))).reshape(-1, group, len(grid))
    counts = (np.arange(places[..., 0].size) < places[..., 0].size - extra).reshape(-1, group)
    corners = np.stack([axis.starts[places[..., i]] for i, axis in enumerate(grid)], axis=-1)
    weights = [jnp.asarray(axis.weights[places[..., i]]) for i, axis in enumerate(grid)]
    return jnp.asarray(corners), weights, jnp.asarray(counts, jnp.float32)


def _outer(profiles: Sequence[Float[Array, "k _"]], counted: Float[Array, "k"]) -> Float[Array, "k ..."]:
    """Products of the weights of all axes, for each window of a group."""
    product = counted
    for profile in profiles:
        product = product[..., None] * profile.reshape(len(counted), *(1,) * (product.ndim - 1), -1)
    return product


def _slice(leaf: Array, corner: Array, window: Sequence[int]) -> Array:
    rest = leaf.shape[1 + len(window) :]
    start = (0, *corner, *(0 for _ in rest))
    return lax.dynamic_slice(leaf, start, (leaf.shape[0], *window, *rest))


def _paste(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
    """Add a window's values where it stands."""
    corner, value = part
    before = _slice(total, corner, value.shape[1:-1])
    return lax.dynamic_update_slice(total, before + value, (0, *corner, 0)), None
