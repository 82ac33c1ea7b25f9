r"""Procedural heads in two modalities, where every question of imaging has a true answer.

A head is some numbers drawn from a key: skull, grey and white matter, two ventricles, two deep nuclei, and a
lesion or none. It is rendered on the device at any size, as a slice or as a volume, with the healthy twin
that shares anatomy and noise, the lesion's mask, the outlines that several annotators would draw, a map of
tissues, and the facts that a report would state. A slice shows the middle of the volume, but for the lesion,
which it cuts in two wherever that lies. Coordinates are shares of half the field of view (:data:`FIELD_MM`
wide): x to the right of the picture, y down, z up, each in [-1, 1].

Modality A shows white matter bright and the lesion darker than it; B shows the lesion bright, between the
brain and a skull that is brighter still, so no threshold on B finds it.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Key

from diffax.checks import require

FIELD_MM = 240.0  # side of the field of view
TISSUES = ("air", "skull", "grey matter", "white matter", "fluid", "nuclei", "lesion")
ANNOTATORS = 4
HELD_OUT = 1_000_000  # heads with numbers from here on are for tests
NOISE = 0.015  # standard deviation of acquisition noise, as a share of the full range of greys
BIAS = 0.08  # of modality A's coil: intensities vary by up to this share across the field
LARGE = 0.14  # radius from which a lesion is called large
_EDGE = 0.6  # of a boundary's blur, in pixels over pixels of a field two wide
GREYS = ((0.35, 0.72), (0.50, 0.52), (0.78, 0.40), (0.12, 0.10), (0.58, 0.46))  # of TISSUES[1:6] in A and B

Points = tuple[Array, Array, Array]


class Head(NamedTuple):
    """What is drawn of one head. Lengths are shares of half the field of view, angles radians."""

    axes: Float[Array, "3"]  # semi-axes of the skull's outside
    tilt: Float[Array, ""]
    shift: Float[Array, "2"]
    folds: Float[Array, "3"]  # phases of the white matter's outline
    ventricle: Float[Array, ""]  # size of the ventricles: about 1, or 1.6 where enlarged
    enlarged: Bool[Array, ""]
    greys: Float[Array, "5 2"]  # of each tissue in A and B, in [0, 1]
    bias: Float[Array, "2 2"]  # at the corners of A's field
    lesion: Bool[Array, ""]
    place: Float[Array, "3"]  # the lesion's centre in the head's own frame; its z counts in volumes alone
    radii: Float[Array, "3"]  # its semi-axes
    radius: Float[Array, ""]  # the geometric mean of the first two
    lesion_greys: Float[Array, "2"]
    opinions: Float[Array, "k 4"]  # per annotator: factor on the radii, shift in x and y, phase


def phantom_key(number: Integer[Array, "..."] | int, seed: int = 0) -> Key[Array, "..."]:
    """The keys of numbered heads; numbers from :data:`HELD_OUT` on are kept for tests."""
    numbers = jnp.asarray(number, jnp.uint32)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers.ravel())
    return keys.reshape(numbers.shape)


def phantom2d(
    key: Key[Array, ""], n: int, size: int = 64, lesion_prob: float = 0.5, *, noise: float = NOISE
) -> dict[str, Array]:
    """``n`` slices, of the keys ``fold_in(key, 0 .. n-1)``: what :func:`render` says."""
    return render(_numbered(key, n), size, 2, lesion_prob=lesion_prob, noise=noise)


def phantom3d(
    key: Key[Array, ""], n: int, size: int = 32, lesion_prob: float = 0.5, *, noise: float = NOISE
) -> dict[str, Array]:
    """``n`` volumes, (n, z, y, x, 1), of the keys ``fold_in(key, 0 .. n-1)``: what :func:`render` says."""
    return render(_numbered(key, n), size, 3, lesion_prob=lesion_prob, noise=noise)


@partial(jax.jit, static_argnums=(1, 2))
def render(
    keys: Key[Array, "b"],
    size: int,
    dims: int = 2,
    *,
    lesion_prob: float | Float[Array, ""] = 0.5,
    noise: float | Float[Array, ""] = NOISE,
) -> dict[str, Array]:
    """Heads of the given keys; arrays (b, size, size, 1), or (b, size, size, size, 1) where ``dims`` is 3.

    * ``A``, ``B``: the two modalities in [-1, 1]; ``A0``, ``B0``: the healthy twins, with the same noise;
    * ``mask``: 1 inside the lesion, else 0; ``annotators``: the same by each annotator, on the last axis;
    * ``tissue``: int32 without the last axis, an index of :data:`TISSUES`;
    * ``label``: int32 (b,), 1 with a lesion; ``radius``: (b,) of the lesion, 0 without, as a share of half
      the field; ``left``, ``large``, ``enlarged``: bool (b,), see :func:`facts`.

    The same key gives the same head at every size. ``noise``: standard deviation of Gaussian noise, as a
    share of the full range. Raises ``ValueError`` for a size below 8 or other dimensions.
    """
    require(size >= 8, "size", size, "an integer >= 8")
    require(dims in (2, 3), "dims", dims, "2 or 3")
    heads = jax.vmap(lambda key: draw_head(key, lesion_prob))(keys)
    found = jax.vmap(lambda head: _paint(head, size, dims))(heads)
    shape = (2,) + (size,) * dims + (1,)
    grain = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), shape))(keys)
    for index, modality in enumerate("AB"):
        for name in (modality, modality + "0"):
            found[name] = jnp.clip(2 * (found[name] + noise * grain[:, index]) - 1, -1, 1)
    return found


def facts(found: Mapping[str, Array | np.ndarray]) -> Bool[Array, "b 4"]:
    """What a report says of a rendered batch: lesion, on the left of the picture, large, ventricles enlarged.

    Side and size are false without a lesion.
    """
    has, left, large, enlarged = (jnp.asarray(found[k]) > 0 for k in ("label", "left", "large", "enlarged"))
    return jnp.stack([has, has & left, has & large, enlarged], axis=1)


def draw_head(key: Key[Array, ""], lesion_prob: float | Float[Array, ""] = 0.5) -> Head:
    """A head's numbers; it has a lesion with the given probability, and is else the same."""
    keys = iter(jax.random.split(jax.random.fold_in(key, 0), 20))

    def between(low: float, high: float, *shape: int) -> Array:
        return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

    axes = jnp.stack([between(0.68, 0.82), between(0.80, 0.93), between(0.70, 0.85)])
    enlarged = jax.random.bernoulli(next(keys), 0.3)
    radius, squeeze, angle = between(0.08, 0.20), between(0.85, 1.15), between(0.0, 2 * jnp.pi)
    room = axes[:2] - 0.09 - 1.15 * radius  # so that all of it lies in the brain
    place = jnp.sqrt(between(0.02, 1.0)) * room * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    opinions = [between(0.75, 1.3, ANNOTATORS, 1), between(-0.15, 0.15, ANNOTATORS, 2)]
    return Head(
        axes=axes,
        tilt=between(-0.12, 0.12),
        shift=between(-0.04, 0.04, 2),
        folds=between(0.0, 2 * jnp.pi, 3),
        ventricle=jnp.where(enlarged, 1.6, 1.0) * between(0.92, 1.08),
        enlarged=enlarged,
        greys=jnp.array(GREYS) + between(-0.02, 0.02, 5, 2),
        bias=between(-BIAS, BIAS, 2, 2),
        lesion=jax.random.bernoulli(next(keys), lesion_prob),
        place=jnp.append(place, between(-0.3, 0.3)),
        radii=radius * jnp.stack([squeeze, 1 / squeeze, jnp.ones(())]),
        radius=radius,
        lesion_greys=jnp.stack([jnp.asarray(0.42), between(0.60, 0.75)]),
        opinions=jnp.concatenate([*opinions, between(0.0, 2 * jnp.pi, ANNOTATORS, 1)], axis=1),
    )


def _numbered(key: Key[Array, ""], n: int) -> Key[Array, "n"]:
    require(n >= 1, "n", n, "an integer >= 1")
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(n))


def _paint(head: Head, size: int, dims: int) -> dict[str, Array]:
    """All that is known of a head, without noise and in [0, 1]."""
    points, edge = _own_frame(head, size, dims), _EDGE / size
    centre = head.place * jnp.array([1.0, 1.0, dims - 2])
    lesion = head.lesion * jax.nn.sigmoid(_depth(points, centre, head.radii) / edge)
    shares = [jax.nn.sigmoid(depth / edge) for depth in _tissue_depths(head, points)]
    found: dict[str, Array] = {}
    for index, modality in enumerate("AB"):
        healthy = jnp.zeros_like(lesion)
        for share, grey in zip(shares, head.greys[:, index], strict=True):
            healthy += share * (grey - healthy)
        coil = _bias_field(head, size, dims) if modality == "A" else 1.0
        ill = healthy + lesion * (head.lesion_greys[index] - healthy)
        found |= {modality: (coil * ill)[..., None], modality + "0": (coil * healthy)[..., None]}
    tissue = jnp.zeros(lesion.shape, jnp.int32)
    for index, share in enumerate([*shares, lesion]):
        tissue = jnp.where(share > 0.5, index + 1, tissue)
    drawn = [head.lesion & (_outline(head, points, centre, opinion) > 0) for opinion in head.opinions]
    return found | {
        "mask": (lesion > 0.5).astype(jnp.float32)[..., None],
        "annotators": jnp.stack(drawn, axis=-1).astype(jnp.float32),
        "tissue": tissue,
        "label": head.lesion.astype(jnp.int32),
        "radius": head.lesion * head.radius,
        "left": head.place[0] < 0,
        "large": head.radius >= LARGE,
        "enlarged": head.enlarged,
    }


def _tissue_depths(head: Head, points: Points) -> list[Array]:
    """How deep each pixel lies in each of the five tissues, the later painted over the earlier."""
    x, y, _ = points
    turn = jnp.arctan2(y, x)
    wobble = sum(
        size * jnp.cos(n * turn + phase)
        for size, n, phase in zip((0.06, 0.05, 0.04), (3, 5, 8), head.folds, strict=True)
    )
    middle = jnp.zeros(3)
    white = head.axes - 0.24
    pairs = []
    for half, centre, axes in (
        (head.ventricle, (0.12, -0.04, 0.0), (0.065, 0.20, 0.16)),
        (1.0, (0.27, 0.08, 0.0), (0.085, 0.11, 0.10)),
    ):
        sides = [
            _depth(points, jnp.array([side * centre[0], *centre[1:]]), half * jnp.array(axes))
            for side in (-1.0, 1.0)
        ]
        pairs.append(jnp.maximum(*sides))
    return [
        _depth(points, middle, head.axes),
        _depth(points, middle, head.axes - 0.09),
        _depth(points, middle, white, 1 + wobble),
        *pairs,
    ]


def _outline(head: Head, points: Points, centre: Array, opinion: Float[Array, "4"]) -> Array:
    """How deep each pixel lies in the lesion as an annotator sees it: larger or smaller, shifted, uneven."""
    factor, right, down, phase = opinion
    moved = centre.at[:2].add(head.radius * jnp.stack([right, down]))
    turn = jnp.arctan2(points[1] - moved[1], points[0] - moved[0])
    return _depth(points, moved, factor * head.radii, 1 + 0.12 * jnp.cos(3 * turn + phase))


def _depth(
    points: Points, centre: Float[Array, "3"], axes: Float[Array, "3"], swell: Array | float = 1.0
) -> Array:
    """Nearly the distance to an ellipsoid's surface, positive inside; ``swell``: factor on its radius."""
    squares = [((p - c) / a) ** 2 for p, c, a in zip(points, centre, axes, strict=True)]
    return (swell - jnp.sqrt(sum(squares) + 1e-12)) * jnp.minimum(axes[0], axes[1])


def _own_frame(head: Head, size: int, dims: int) -> Points:
    """x, y, z of the pixels' centres about the head's middle, turned with it; a slice lies at z = 0."""
    axis = (jnp.arange(size) + 0.5) / size * 2 - 1
    grids = jnp.meshgrid(*[axis] * dims, indexing="ij")  # (z,) y, x
    x, y = grids[-1] - head.shift[0], grids[-2] - head.shift[1]
    c, s = jnp.cos(head.tilt), jnp.sin(head.tilt)
    return c * x + s * y, c * y - s * x, grids[0] if dims == 3 else jnp.zeros_like(x)


def _bias_field(head: Head, size: int, dims: int) -> Array:
    """What A's coil multiplies a slice with, the same at all heights: bilinear between the corners."""
    place = (jnp.arange(size) + 0.5) / size
    ends = jnp.stack([1 - place, place])
    return jnp.broadcast_to(1 + ends.T @ head.bias @ ends, (size,) * dims)
