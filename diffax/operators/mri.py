r"""Cartesian MRI: images (rows, columns, slices) to k-space, one coil or several, and masks for it.

The transform is orthonormal and centred: the origin of image and k-space is at ``(rows // 2, columns // 2)``,
for odd and even sizes,

    sqrt(rows columns) X[k, l]
        = sum_{i, j} x[i, j] exp(-2 pi i ((k - r)(i - r) / rows + (l - c)(j - c) / columns))

with r = rows // 2 and c = columns // 2. Then ``A^H A`` is a projection for one coil.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex64, Inexact, Shaped

from diffax.checks import require, require_one_of
from diffax.operators.base import LinearOperator
from diffax.operators.images import mask_table

_WIDTH = 15 / 128  # of the number of lines: the deviation of the "gaussian" kinds
_SPARSER = 4.0  # the distance of "poisson2d" grows by so many times its least from the centre to an edge
_HALVINGS = 10  # of the interval where its least distance is sought


def cartesian_mri(
    mask: Shaped[Array | np.ndarray, "..."],
    shape: Sequence[int],
    coils: Inexact[Array | np.ndarray, "..."] | None = None,
    dtype: Any = jnp.complex64,
) -> LinearOperator:
    r"""``x -> M F (S_c x)`` for each coil c: complex images to k-space, zero where nothing is measured.

    Args:
      mask: (rows, columns) or (rows, columns, slices), true where k-space is sampled; see the module for its
        origin, and :func:`cartesian_mask`.
      shape: (rows, columns, slices) of the images.
      coils: sensitivities S, (coils, rows, columns) or (coils, rows, columns, slices); None is one coil that
        is 1 everywhere, and no coil axis.

    Gives (rows, columns, slices), or (coils, rows, columns, slices). The adjoint is
    ``sum_c conj(S_c) F^H M y``; the norm is at most ``max sqrt(sum_c |S_c|^2)``, 1 without coils. After
    Pruessmann et al., 1999 (SENSE). ``diffax.operators.real_images`` restricts it to real images. Raises
    ``ValueError`` for other shapes, and masks that hold other numbers than 0 and 1.
    """
    table, shape = mask_table(mask, shape), tuple(shape)
    if coils is None:
        forward, adjoint = (jax.tree_util.Partial(function, table) for function in (_sample, _fill))
        return LinearOperator(forward, adjoint, shape, shape, dtype)
    allowed = f"(coils, *{shape[:2]}) or (coils, *{shape})"
    require(coils.shape[1:] in (shape[:2], shape), "coils: shape", coils.shape, allowed)
    maps = jnp.asarray(coils, dtype)
    maps = maps if maps.ndim == 4 else maps[..., None]
    forward, adjoint = (jax.tree_util.Partial(function, table, maps) for function in (_sense, _unite))
    return LinearOperator(forward, adjoint, shape, (maps.shape[0], *shape), dtype)


def birdcage_maps(n_coils: int, shape: Sequence[int]) -> Complex64[np.ndarray, "coils rows columns"]:
    r"""Smooth synthetic sensitivities of coils on a circle about the image, with ``sum_c |S_c|^2 = 1``.

    Each is ``exp(i phase) / distance`` of a coil at 1.5 times the half side of the image, its phase the
    direction to it. For examples and tests; rows and columns are the first two of ``shape``.
    """
    require(n_coils >= 1, "n_coils", n_coils, "at least 1")
    require(len(shape) >= 2 and min(shape) >= 1, "shape", tuple(shape), "(rows, columns, ...)")
    y, x = np.meshgrid(*[(2 * np.arange(n) - (n - 1)) / n for n in shape[:2]], indexing="ij")
    angles = 2 * math.pi * np.arange(n_coils)[:, None, None] / n_coils
    away = x + 1j * y - 1.5 * np.exp(1j * angles)
    maps = np.exp(1j * (np.angle(away) - angles)) / np.abs(away)
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


def cartesian_mask(
    shape: Sequence[int], kind: str, acceleration: float, *, centre: float = 0.08, seed: int = 0
) -> Bool[np.ndarray, "rows columns"]:
    r"""Which places of k-space are sampled: exactly ``round(places / acceleration)``, none of them twice.

    Args:
      shape: (rows, columns); more axes are ignored.
      kind: "uniform1d", "equispaced1d" or "gaussian1d" sample whole lines: a column of the mask is all true
        or all false, so that phase encoding runs along the columns' index and readout along the rows'.
        "uniform2d", "gaussian2d" and "poisson2d" sample single places (both axes phase encoded).
      acceleration: places over sampled places, the centre included; at least 1. For lines the nearest
        that their whole number allows (:func:`true_acceleration` tells).
      centre: the share of each phase encoded axis that is fully sampled about the origin: ``round(centre
        columns)`` lines, or a rectangle of ``round(centre rows)`` times ``round(centre columns)`` places.
      seed: of all that is random; equal seeds give equal masks.

    "uniform" draws with equal probability without replacement; "gaussian" with weights
    ``exp(-d^2 / 2 (15 n / 128)^2)``; "equispaced" puts lines evenly over the columns outside the centre,
    from a random first one; "poisson" keeps a distance between places outside the centre that grows by
    ``1 + 4 d`` from the origin (d = 1 in the middle of an edge). Raises ``ValueError`` for an
    acceleration below 1 or that leaves nothing, a centre outside [0, 1] or larger than all samples, and
    other kinds.
    """
    kinds: dict[str, Callable[..., Bool[np.ndarray, "..."]]] = {
        "uniform": _uniform,
        "equispaced": _equispaced,
        "gaussian": _gaussian,
        "poisson": _poisson,
    }
    require_one_of("kind", kind, _KINDS)
    require(len(shape) >= 2 and min(shape) >= 1, "shape", tuple(shape), "(rows, columns, ...)")
    rows, columns = shape[:2]
    lines = kind.endswith("1d")
    kept = _centre((1, columns) if lines else (rows, columns), centre)
    count = _count(kept, acceleration, centre)
    chosen = kept.copy()
    draw = kinds[kind[:-2]]
    chosen[~kept] = draw(~kept, count - int(kept.sum()), np.random.default_rng(seed))
    return np.array(np.broadcast_to(chosen, (rows, columns)))


def true_acceleration(mask: Shaped[Array | np.ndarray, "..."]) -> float:
    """Places over sampled places of a mask; raises ``ValueError`` for one that samples nothing."""
    sampled = int(np.count_nonzero(np.asarray(mask)))
    require(sampled > 0, "mask: sampled places", 0, "at least 1")
    return mask.size / sampled


_KINDS = ("uniform1d", "equispaced1d", "gaussian1d", "uniform2d", "gaussian2d", "poisson2d")


def _centre(shape: tuple[int, int], centre: float) -> Bool[np.ndarray, "rows columns"]:
    require(0 <= centre <= 1, "centre", centre, "a share in [0, 1]")
    inside = []
    for n in shape:
        width = n if n == 1 else round(centre * n)  # one row stands for lines
        place = np.arange(n) - (n // 2 - width // 2)
        inside.append((place >= 0) & (place < width))
    return inside[0][:, None] & inside[1]


def _count(kept: Bool[np.ndarray, "rows columns"], acceleration: float, centre: float) -> int:
    """How many places, or lines, are sampled in all."""
    allowed = f"1 to {kept.size}, for {kept.size} places or lines"
    require(1 <= acceleration <= kept.size, "acceleration", acceleration, allowed)
    exact = kept.size / acceleration
    whole = (math.floor(exact), math.ceil(exact))
    count = min((n for n in whole if n), key=lambda n: abs(kept.size / n - acceleration))
    allowed = f"a smaller share: it takes {int(kept.sum())} of the {count} samples of {acceleration=}"
    require(int(kept.sum()) <= count, "centre", centre, allowed)
    return count


def _uniform(free: Bool[np.ndarray, "..."], n: int, rng: np.random.Generator) -> Bool[np.ndarray, "free"]:
    return _largest(rng.random(int(free.sum())), n)


def _gaussian(free: Bool[np.ndarray, "..."], n: int, rng: np.random.Generator) -> Bool[np.ndarray, "free"]:
    """The largest of log weights plus Gumbel noise are draws without replacement with these weights."""
    squares = sum((offset / (_WIDTH * offset.size)) ** 2 for offset in _offsets(free.shape))
    log_weights = -0.5 * np.broadcast_to(squares, free.shape)[free]
    return _largest(log_weights + rng.gumbel(size=log_weights.shape), n)


def _equispaced(free: Bool[np.ndarray, "..."], n: int, rng: np.random.Generator) -> Bool[np.ndarray, "free"]:
    chosen = np.zeros(int(free.sum()), bool)
    step = chosen.size / max(n, 1)  # at least 1: no line twice
    chosen[((np.arange(n) + rng.random()) * step).astype(int)] = True
    return chosen


def _poisson(free: Bool[np.ndarray, "..."], n: int, rng: np.random.Generator) -> Bool[np.ndarray, "free"]:
    """The widest distances that leave enough places, less a random few of them."""
    order = rng.permutation(np.flatnonzero(free))
    low, high = 0.0, 2 * math.sqrt(free.size / max(n, 1))  # discs of this radius cannot be so many
    best = free
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = poisson_disc(free, middle, order)
        low, high, best = (middle, high, found) if found.sum() >= n else (low, middle, best)
    return _largest(best[free] * rng.random(int(free.sum())), n)


def poisson_disc(
    free: Bool[np.ndarray, "rows columns"], least: float, order: Shaped[np.ndarray, "n"]
) -> Bool[np.ndarray, "rows columns"]:
    r"""Places taken in ``order`` (flat indices), each if no taken one lies nearer than *its* distance.

    The distance of a place is ``least (1 + 4 d)`` with d its distance from the origin, 1 in the middle of
    an edge: two taken places are at least the smaller of theirs apart. Only ``free`` places are taken.
    """
    y, x = _offsets(free.shape)
    radii = least * (1 + _SPARSER * np.hypot(2 * y / free.shape[0], 2 * x / free.shape[1]))
    open_, taken = free.copy(), np.zeros_like(free)
    for i, j in zip(*np.unravel_index(order, free.shape), strict=True):
        if open_[i, j]:
            taken[i, j] = True
            reach = int(radii[i, j])
            window = (slice(max(i - reach, 0), i + reach + 1), slice(max(j - reach, 0), j + reach + 1))
            open_[window] &= (y[window[0]] - y[i]) ** 2 + (x[:, window[1]] - x[:, j]) ** 2 >= radii[i, j] ** 2
    return taken


def _offsets(shape: Sequence[int]) -> tuple[Shaped[np.ndarray, "rows 1"], Shaped[np.ndarray, "1 columns"]]:
    """Rows and columns counted from the origin."""
    rows, columns = shape
    return np.arange(rows)[:, None] - rows // 2, np.arange(columns)[None] - columns // 2


def _largest(values: Shaped[np.ndarray, "free"], n: int) -> Bool[np.ndarray, "free"]:
    chosen = np.zeros(values.shape, bool)
    chosen[np.argsort(values, kind="stable")[values.size - n :]] = True
    return chosen


def _fourier(x: Array, transform: Callable[..., Array]) -> Array:
    """A centred orthonormal transform of the rows and columns of (..., rows, columns, slices)."""
    axes = (-3, -2)
    return jnp.fft.fftshift(transform(jnp.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def _sample(mask: Array, x: Array) -> Array:
    return mask * _fourier(x, jnp.fft.fft2)


def _fill(mask: Array, y: Array) -> Array:
    return _fourier(mask * y, jnp.fft.ifft2)


def _sense(mask: Array, coils: Array, x: Array) -> Array:
    return _sample(mask, coils * x)


def _unite(mask: Array, coils: Array, y: Array) -> Array:
    return (coils.conj() * _fill(mask, y)).sum(0)
