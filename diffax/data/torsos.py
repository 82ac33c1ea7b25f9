r"""Procedural anatomy: torsos that no patient lent, each a function of its index.

A body is a stack of soft-edged ellipsoids (fat, muscle, lungs, heart, liver, kidneys, spine, ribs, gas),
bent by a smooth random deformation, with vessels and texture from random waves. Values are Hounsfield
units, so what reads CT reads these.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16

from diffax.checks import require, require_one_of
from diffax.data.ranges import to_unit_range
from diffax.data.source import Item, SourceSpec
from diffax.data.volume import Volume

FIELD_MM = 400.0  # the side of the cube that is shown
HU_RANGE = (-1000.0, 1000.0)
_AIR = -1000.0
_TEST_INDEX = 2_000_000  # torsos from here on are the test split's; settings were chosen on 1,000,000 ff.

Grid = tuple[np.ndarray, np.ndarray, np.ndarray]
Number = float | int
Lengths = Sequence[Number] | np.ndarray


def torso(index: int, size: int = 64, seed: int = 0) -> Volume:
    """Torso number ``index``: (size, size, size) HU on a cube of 400 mm, RAS+, in about 0.35 s at size 64.

    Equal arguments give equal voxels. Every index is another body: size and place of organs, fat, posture,
    texture. Raises ``ValueError`` for a negative index or a size below 8.
    """
    require(index >= 0, "index", index, "an integer >= 0")
    require(size >= 8, "size", size, "an integer >= 8")
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    values = _draw(rng, _warp(rng, _grid(size)), edge=2.0 / size)
    affine = np.diag([FIELD_MM / size] * 3 + [1.0])
    affine[:3, 3] = -FIELD_MM / 2 * (1 - 1 / size)
    return Volume(np.clip(values, *HU_RANGE).astype(np.float32), affine)


class TorsoSource:
    """Axial slices of torsos, (size, size, 1) in [-1, 1] for -1000 .. 1000 HU, displayed as radiologists do.

    Items: ``image``, and ``volume``, int32, the place of its torso in ``indices``. A torso is drawn when one
    of its slices is asked for first (0.35 s at size 64), and kept as 16-bit integers.
    """

    def __init__(self, indices: Sequence[int], size: int = 64, seed: int = 0) -> None:
        require(len(indices) > 0, "torsos", 0, "at least 1")
        self._indices, self._size, self._seed = tuple(indices), size, seed
        self._drawn: dict[int, Int16[np.ndarray, "z h w"]] = {}
        shape, kind = {"image": (size, size, 1), "volume": ()}, np.dtype
        self.spec = SourceSpec(shape, {"image": kind(np.float32), "volume": kind(np.int32)})

    def __len__(self) -> int:
        return len(self._indices) * self._size

    def __getitem__(self, index: int) -> Item:
        volume, place = divmod(index, self._size)
        values = self._slices(volume)[place].astype(np.float32)[..., None]
        return {"image": to_unit_range(values, HU_RANGE), "volume": np.asarray(volume, np.int32)}

    def _slices(self, volume: int) -> Int16[np.ndarray, "z h w"]:
        if volume not in self._drawn:  # two threads may draw one torso: it is the same
            array = np.rint(torso(self._indices[volume], self._size, self._seed).array).astype(np.int16)
            self._drawn[volume] = array[::-1, ::-1].transpose(2, 1, 0)
        return self._drawn[volume]


def torsos(split: str = "train", *, volumes: int = 96, size: int = 64) -> TorsoSource:
    """Slices of so many torsos of a split; "train" and "test" share no body, and "all" is both."""
    require_one_of("split", split, ("train", "test", "all"))
    require(volumes >= 1, "volumes", volumes, "at least 1")
    train, test = range(volumes), range(_TEST_INDEX, _TEST_INDEX + max(1, volumes // 8))
    chosen = {"train": [*train], "test": [*test], "all": [*train, *test]}
    return TorsoSource(chosen[split], size)


def held_out_torso(index: int, size: int = 64) -> Volume:
    """A body of the test split, which no prior was trained on."""
    return torso(_TEST_INDEX + index, size)


def _grid(size: int) -> Grid:
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    return x, y, z


def _waves(rng: np.random.Generator, grid: Grid, low: Number, high: Number, count: int = 8) -> np.ndarray:
    """A smooth random field of variance 1: waves of ``low`` to ``high`` periods in the field of view."""
    total: np.ndarray = np.zeros((), np.float32)
    for _ in range(count):
        direction = rng.normal(size=3)
        k = np.pi * rng.uniform(low, high) * direction / np.linalg.norm(direction)
        x, y, z = (np.float32(c) * axis for c, axis in zip(k, grid, strict=True))
        total = total + np.sin(x + y + z + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(total * np.float32(np.sqrt(2 / count)))


def _warp(rng: np.random.Generator, grid: Grid) -> Grid:
    """The grid, bent by a few percent, wider here than there, turned by a few degrees about the long axis."""
    bend = np.float32(rng.uniform(0.015, 0.045))
    x, y, z = (axis + bend * _waves(rng, grid, 0.4, 1.6, 5) for axis in grid)
    x, y = (
        axis * (1 + np.float32(0.05) * np.sin(rng.uniform(1, 4) * z + rng.uniform(0, 6))) for axis in (x, y)
    )
    angle = np.float32(rng.normal(0, 0.08))
    return np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, z


class _Canvas:
    """Voxels that soft-edged ellipsoids are painted on, the later over the earlier."""

    def __init__(self, grid: Grid, edge: float) -> None:
        self.grid, self._edge = grid, np.float32(edge)
        self.values = np.full(np.broadcast_shapes(*(axis.shape for axis in grid)), _AIR, np.float32)
        self.within: np.ndarray = np.ones((), np.float32)  # the share of each voxel that may be painted on

    def inside(self, centre: Lengths, axes: Lengths, turn: Number = 0.0, power: Number = 2.0) -> np.ndarray:
        """The share of each voxel that an ellipsoid covers, nearly; ``turn`` is about z, in radians.

        Another ``power`` than 2 makes its axial sections squarer (above) or more pointed (below).
        """
        x, y, z = (axis - np.float32(c) for axis, c in zip(self.grid, centre, strict=True))
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        a, b, h = (np.float32(v) for v in axes)
        u, v = np.abs(c * x + s * y) / a, np.abs(c * y - s * x) / b
        section = u**2 + v**2 if power == 2 else (u**power + v**power) ** np.float32(2 / power)
        radius = np.sqrt(section + (z / h) ** 2)
        return np.clip((1 - radius) * min(a, b, h) / self._edge + np.float32(0.5), 0, 1)

    def paint(self, share: np.ndarray, hu: np.ndarray | Number) -> None:
        """Replace that share of every voxel."""
        self.values += self.within * share * (np.float32(1) * hu - self.values)


def _draw(rng: np.random.Generator, grid: Grid, edge: float) -> np.ndarray:
    x, y, z = grid
    canvas = _Canvas((x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.06, 0.1), z), edge)
    width, depth = rng.uniform(0.72, 1.0), rng.uniform(0.5, 0.78)
    fat = rng.uniform(0.04, 0.14)
    middle = rng.uniform(-0.3, 1.2)  # of the diaphragm: some scans show the chest, some the pelvis
    flat = rng.uniform(0.5, 1.0) * depth  # how far behind the middle the back lies
    soft = _waves(rng, canvas.grid, 4, 12)
    _couch(rng, canvas, flat)
    _trunk(rng, canvas, (width, depth, flat), fat, soft)
    width, depth = width - fat, depth - fat
    _lungs(rng, canvas, width, depth, middle)
    if rng.random() < 0.7:
        _organs(rng, canvas, width, depth, middle, soft)
        _bowel(rng, canvas, width, depth, middle)
    _lumps(rng, canvas, width, depth)
    _ribs(rng, canvas, width, depth, middle)
    back = -max(flat - fat - rng.uniform(0.18, 0.36), 0.1)
    _pelvis(rng, canvas, width, depth, middle, back)
    _spine(rng, canvas, back)
    return canvas.values


def _couch(rng: np.random.Generator, canvas: _Canvas, flat: float) -> None:
    """Two curved plates that some patients lie on."""
    if rng.random() < 0.4:
        return
    x, y, _ = canvas.grid
    bend, reach, hu = rng.uniform(0.0, 0.35), rng.uniform(0.55, 0.95), rng.uniform(-700, -100)
    for gap in (0.02, rng.uniform(0.08, 0.16)):
        place = np.float32(-flat - gap) + np.float32(bend) * x**2
        plate = np.clip(1.5 - np.abs(y - place) / 0.018, 0, 1) * np.clip((reach - np.abs(x)) / 0.03, 0, 1)
        canvas.paint(plate, hu)


def _trunk(
    rng: np.random.Generator,
    canvas: _Canvas,
    size: tuple[float, float, float],
    fat: float,
    soft: np.ndarray,
) -> None:
    """Skin, fat, a wall of muscle, and what lies between the organs, which vessels run through.

    The back is more or less flat, as of somebody who lies on it.
    """
    (width, depth, flat), power = size, rng.uniform(1.7, 3.5)

    def layer(thickness: float, height: float) -> np.ndarray:
        share = canvas.inside((0, 0, 0), (width - thickness, depth - thickness, height), power=power)
        return share * np.clip((canvas.grid[1] + np.float32(flat - thickness)) / 0.03 + 0.5, 0, 1)

    canvas.paint(layer(0.0, 9.0), 30.0)
    lobules = _waves(rng, canvas.grid, 6, 16)
    canvas.paint(layer(0.012, 9.0), -100 + 12 * lobules)
    canvas.paint(layer(fat, 9.0), 50 + 8 * soft)
    inner = layer(fat + rng.uniform(0.03, 0.08), 9.0)
    canvas.paint(inner, rng.uniform(-100, 50) + 10 * lobules)
    canvas.paint(inner * _tubes(rng, canvas.grid, 2.0, 5.0, 0.22), 110.0)
    canvas.within = layer(0.9 * fat, 9.0)  # no organ lies outside the skin


def _lungs(rng: np.random.Generator, canvas: _Canvas, width: float, depth: float, middle: float) -> None:
    """Two lungs above the diaphragm with their vessels, and the heart between them."""
    vessels = _tubes(rng, canvas.grid, 2.5, 7.0, 0.28)
    air = -830 + rng.normal(0, 30) + 25 * _waves(rng, canvas.grid, 3.0, 10.0)
    tops = rng.uniform(0.75, 0.95, 2)
    for side, top in zip((-1, 1), tops, strict=True):
        centre = (side * 0.5 * width, 0.02, middle + 0.55 * top)
        share = canvas.inside(centre, (0.40 * width, 0.74 * depth, top), -0.15 * side)
        floor = canvas.inside((side * 0.45 * width, 0, middle - 0.55), (0.62 * width, 0.9 * depth, 0.6))
        share = share * (1 - floor)
        canvas.paint(share, air)
        canvas.paint(share * vessels, 40.0)
    heart = (rng.uniform(-0.22, -0.08), rng.uniform(0.1, 0.22) * depth, middle + rng.uniform(0.2, 0.35))
    axes = rng.uniform(0.85, 1.15, 3) * (0.27, 0.24, 0.27)
    share = canvas.inside(heart, axes, rng.uniform(-0.6, -0.2))
    canvas.paint(share, 60.0)
    for chamber in (-0.1, 0.1):
        place = (heart[0] + chamber, heart[1] + 0.3 * chamber, heart[2] + rng.uniform(-0.05, 0.05))
        canvas.paint(canvas.inside(place, (0.08, 0.12, 0.13), -0.4), rng.uniform(120, 260))


def _organs(
    rng: np.random.Generator, canvas: _Canvas, width: float, depth: float, middle: float, soft: np.ndarray
) -> None:
    """Liver, stomach, spleen, kidneys and the great vessel, below the diaphragm."""
    hepatic = _tubes(rng, canvas.grid, 3.0, 6.0, 0.25)
    liver = canvas.inside(
        (0.42 * width, 0.1 * depth, middle - rng.uniform(0.3, 0.4)),
        rng.uniform(0.9, 1.1, 3) * (0.5 * width, 0.68 * depth, 0.42),
        0.25,
    )
    canvas.paint(liver, rng.uniform(60, 120) + 10 * soft)
    canvas.paint(liver * hepatic, 170.0)
    for _ in range(rng.integers(0, 4)):
        place = (
            rng.uniform(0.2, 0.6) * width,
            rng.uniform(-0.2, 0.4) * depth,
            middle - rng.uniform(0.2, 0.5),
        )
        canvas.paint(liver * canvas.inside(place, rng.uniform(0.03, 0.09, 3)), rng.uniform(0, 40))
    stomach = (-0.4 * width, 0.3 * depth, middle - rng.uniform(0.2, 0.35))
    axes = rng.uniform(0.85, 1.2, 3) * (0.26, 0.2, 0.24)
    canvas.paint(canvas.inside(stomach, axes, -0.4), 50.0)
    lumen = np.where(canvas.grid[1] > stomach[1] + rng.uniform(-0.05, 0.1), -950, rng.uniform(10, 150))
    canvas.paint(canvas.inside(stomach, axes - 0.035, -0.4), lumen)
    spleen = (-0.68 * width, -0.3 * depth, middle - rng.uniform(0.2, 0.35))
    canvas.paint(canvas.inside(spleen, (0.12, 0.2, 0.22), 0.5), rng.uniform(80, 140) + 8 * soft)
    for side in (-1, 1):
        kidney = (side * rng.uniform(0.34, 0.42), -0.42 * depth, middle - rng.uniform(0.5, 0.7))
        canvas.paint(canvas.inside(kidney, (0.12, 0.1, 0.21), 0.4 * side), rng.uniform(120, 220) + 10 * soft)
        pelvis = (kidney[0] - 0.04 * side, kidney[1] + 0.02, kidney[2])
        canvas.paint(canvas.inside(pelvis, (0.05, 0.035, 0.09), 0.4 * side), rng.uniform(-40, 60))
    vessel = rng.uniform(100, 320)
    canvas.paint(
        canvas.inside((-0.07, -0.38 * depth, 0), rng.uniform(0.9, 1.2) * np.array([0.06, 0.06, 9])), vessel
    )
    canvas.paint(canvas.inside((0.09, -0.33 * depth, 0), (0.065, 0.05, 9)), 0.6 * vessel)


def _bowel(rng: np.random.Generator, canvas: _Canvas, width: float, depth: float, middle: float) -> None:
    """Loops with content and gas."""
    for _ in range(rng.integers(8, 16)):
        reach = rng.uniform(0.0, 0.62)
        angle = rng.uniform(-0.1, np.pi + 0.1)
        centre = (
            reach * np.cos(angle) * width,
            reach * np.sin(angle) * depth + 0.05,
            middle - rng.uniform(0.55, 1.8),
        )
        axes = rng.uniform(0.07, 0.15, 3) * (1, 1, 1.6)
        turn = rng.uniform(0, np.pi)
        canvas.paint(canvas.inside(centre, axes, turn), 45.0)
        content = -900 if rng.random() < 0.45 else rng.uniform(0, 120)
        canvas.paint(canvas.inside(centre, axes - 0.025, turn), content)


def _lumps(rng: np.random.Generator, canvas: _Canvas, width: float, depth: float) -> None:
    """What no atlas names: up to forty pieces of any tissue anywhere, so that a prior expects little."""
    for _ in range(rng.integers(0, 40)):
        reach, angle = 0.9 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        centre = (reach * np.cos(angle) * width, reach * np.sin(angle) * depth, rng.uniform(-1, 1))
        axes = rng.uniform(0.04, 0.22) * rng.uniform(0.5, 1.5, 3)
        tissue = rng.choice([-900.0, -100.0, 20.0, 60.0, 120.0, 400.0], p=(0.1, 0.2, 0.2, 0.25, 0.15, 0.1))
        canvas.paint(
            canvas.inside(centre, axes, rng.uniform(0, np.pi), rng.uniform(1.5, 3)),
            tissue + rng.normal(0, 25),
        )


def _ribs(rng: np.random.Generator, canvas: _Canvas, width: float, depth: float, middle: float) -> None:
    """Slanting hoops in the wall of the chest, a breastbone in front."""
    x, y, z = canvas.grid
    pitch, phase = rng.uniform(0.17, 0.22), rng.uniform(0, 1)
    radius = np.sqrt((x / (width - 0.045)) ** 2 + (y / (depth - 0.045)) ** 2)
    wall = np.clip(1.5 - np.abs(radius - 1) * min(width, depth) / 0.022, 0, 1)
    slant = np.float32(rng.uniform(0.25, 0.45))
    hoop = np.clip(6.0 * (np.cos(2 * np.pi * ((z + slant * y) / pitch + phase)) - 0.35), 0, 1)
    height = np.clip((z - np.float32(middle - 0.25)) / 0.05, 0, 1)
    canvas.paint(wall * hoop * height, rng.uniform(350, 650))
    canvas.paint(canvas.inside((0, depth - 0.05, middle + 0.75), (0.09, 0.035, 0.6)), rng.uniform(200, 400))


def _pelvis(
    rng: np.random.Generator, canvas: _Canvas, width: float, depth: float, middle: float, back: float
) -> None:
    """Two iliac wings, each the rind of an ellipsoid, and the heads of the thighs below them."""
    top = middle - rng.uniform(1.0, 1.25)
    hu, lean = rng.uniform(300, 600), rng.uniform(0.5, 0.9)
    for side in (-1, 1):
        centre, axes = (
            (side * 0.5 * width, 0.1 * depth, top - 0.35),
            np.array([0.3 * width, 0.7 * depth, 0.4]),
        )
        rind = canvas.inside(centre, axes, -lean * side) * (
            1 - canvas.inside(centre, axes - 0.05, -lean * side)
        )
        outside = np.clip(side * canvas.grid[0] / (0.25 * width) - 0.6, 0, 1)
        canvas.paint(rind * outside * np.clip((0.5 * depth - canvas.grid[1]) / 0.1, 0, 1), hu)
        canvas.paint(canvas.inside((side * 0.5 * width, 0, top - 0.75), (0.13, 0.13, 0.13)), 400.0)
    canvas.paint(canvas.inside((0, back - 0.05, top - 0.45), (0.22, 0.1, 0.3)), 250.0)


def _spine(rng: np.random.Generator, canvas: _Canvas, back: float) -> None:
    """Vertebral bodies with discs between them, a canal behind, arches and processes."""
    x, y, z = canvas.grid
    pitch, phase = rng.uniform(0.2, 0.26), rng.uniform(0, 1)
    disc = np.clip(4.0 * (np.cos(2 * np.pi * (z / pitch + phase)) - 0.72), 0, 1)
    bone = rng.uniform(180, 320) + 50 * _waves(rng, canvas.grid, 10.0, 22.0)
    for side in (-1, 1):
        muscle = canvas.inside((side * 0.17, back - 0.08, 0), (0.15, 0.13, 9), 0.2 * side)
        canvas.paint(muscle, 55.0)
    canvas.paint(canvas.inside((0, back - 0.13, 0), (0.13, 0.1, 9)) * (1 - 0.7 * disc), 480.0)
    process = np.clip(1.5 - np.abs(y - np.float32(back - 0.12)) / 0.035, 0, 1)
    reach = np.clip((0.27 - np.abs(x)) / 0.03, 0, 1)
    canvas.paint(process * reach * np.clip(1 - 2.5 * disc - 0.25, 0, 1), 420.0)
    canvas.paint(canvas.inside((0, back - 0.12, 0), (0.065, 0.055, 9)), 20.0)
    canvas.paint(canvas.inside((0, back, 0), (0.155, 0.12, 9)), 600.0)
    canvas.paint(canvas.inside((0, back, 0), (0.13, 0.095, 9)), bone)
    canvas.paint(canvas.inside((0, back, 0), (0.15, 0.115, 9)) * disc, 90.0)


def _tubes(rng: np.random.Generator, grid: Grid, low: float, high: float, width: float) -> np.ndarray:
    """Branching curves, in [0, 1]: where two random fields are both near zero."""
    first, second = (_waves(rng, grid, low, high, 6) for _ in range(2))
    return np.exp(-(first**2 + second**2) / np.float32(width) ** 2)
