"""Procedural patients made of ellipsoids, whose radiographs are exact at any angle: a pelvis and a chest.

Coordinates are millimetres in RAS+ about the isocentre (x to the right, y to the front, z to the head). What
an ellipsoid adds is its attenuation per mm at about 70 keV: soft tissue is 0.019, lungs and gas take some of
it away, bones bring more. They are drawn from a key on the device, every patient another: size, proportions,
posture, density, gas, a dense implant or lesion.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffax.checks import require_one_of
from diffax.operators.c_arm import rotation
from diffax.operators.ellipsoids import Ellipsoids

SIZE_STD = 0.05  # of the body's proportions along each axis
SHIFT_MM = 4.0  # of each part, by which sides differ
TURN_DEGREES = 3.0  # of each part, and of the whole patient about each axis
DENSITY_STD = 0.10  # of each part's attenuation
HELD_OUT = 1_000_000  # patients with numbers below it are for tests


class Part(NamedTuple):
    """One ellipsoid: ``centre`` and semi-axes in mm, ``turn``: degrees about z, x, y; ``mu`` per mm.

    ``both``: there is one on either side, mirrored in x; ``chance``: the share of patients that have it;
    ``roam``: how far its centre may lie from the one given, in mm; ``grow``: its size varies by this factor.
    """

    name: str
    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    mu: float
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    both: bool = False
    chance: float = 1.0
    roam: tuple[float, float, float] = (0.0, 0.0, 0.0)
    grow: float = 1.0


class Body(NamedTuple):
    """A patient's ellipsoids, and the centres of the parts by which :data:`LANDMARKS` know it, in mm."""

    ellipsoids: Ellipsoids
    landmarks: Float[Array, "l 3"]


PELVIS = (
    Part("trunk", (0, 0, 60), (172, 112, 400), 0.0186),
    Part("thigh", (95, 5, -200), (82, 80, 130), 0.0050, both=True),
    Part("sacrum", (0, -62, 28), (46, 18, 58), 0.0170, (0, 24, 0)),
    Part("l5", (0, -42, 92), (27, 18, 13), 0.0190),
    Part("l4", (0, -36, 128), (26, 17, 13), 0.0190),
    Part("l3", (0, -34, 164), (25, 17, 13), 0.0190),
    Part("ilium", (86, -22, 62), (10, 52, 66), 0.0230, (38, 0, 14), both=True),
    Part("acetabulum", (78, 4, -18), (20, 30, 30), 0.0110, both=True),
    Part("femoral_head", (90, 8, -30), (24, 24, 24), 0.0200, both=True),
    Part("neck", (114, 4, -46), (28, 13, 14), 0.0150, (0, 0, 38), both=True),
    Part("trochanter", (138, -4, -66), (16, 19, 27), 0.0150, both=True),
    Part("shaft", (134, -2, -165), (14, 14, 100), 0.0260, (0, 0, 4), both=True),
    Part("upper_ramus", (46, 42, -40), (36, 9, 10), 0.0210, (-32, 0, 18), both=True),
    Part("pubis", (13, 58, -56), (11, 10, 19), 0.0180, both=True),
    Part("ischium", (62, -28, -78), (15, 18, 34), 0.0210, both=True),
    Part("lower_ramus", (38, 22, -88), (8, 10, 34), 0.0170, (0, -40, 34), both=True),
    Part("gas", (0, 52, 100), (18, 16, 18), -0.0150, both=True, chance=0.6, roam=(60, 20, 50), grow=1.6),
    Part("dense", (0, -10, 0), (7, 7, 9), 0.0500, chance=0.5, roam=(90, 40, 90), grow=1.6),
)
_RIBS = tuple(
    part
    for k in range(5)
    for part in (
        Part(f"rib{k}_back", (66 + 3 * k, -74, 92 - 36 * k), (44, 6, 7), 0.0150, (-28, 0, 16), both=True),
        Part(f"rib{k}_side", (122 + 3 * k, -8, 70 - 36 * k), (6, 56, 7), 0.0150, (0, -18, 8), both=True),
    )
)
CHEST = (
    Part("trunk", (0, 0, -40), (168, 108, 380), 0.0186),
    Part("lung", (76, -2, 30), (60, 82, 118), -0.0145, both=True),
    Part("heart", (-28, 30, -28), (52, 44, 58), 0.0120, (0, 0, 30)),
    Part("liver", (74, 6, -62), (62, 82, 36), 0.0130),
    Part("spleen", (-80, -10, -72), (52, 72, 30), 0.0130),
    Part("stomach", (-72, 30, -120), (26, 22, 20), -0.0140, chance=0.7, roam=(15, 15, 10), grow=1.4),
    Part("spine", (0, -66, 10), (17, 17, 190), 0.0170),
    Part("sternum", (0, 92, 30), (16, 6, 74), 0.0130, (0, -8, 0)),
    Part("clavicle", (76, 54, 138), (62, 6, 7), 0.0170, (-14, 0, -10), both=True),
    Part("scapula", (116, -78, 70), (34, 6, 54), 0.0150, (-28, 0, -8), both=True),
    *_RIBS,
    Part("nodule", (60, 0, 30), (9, 9, 9), 0.0190, both=True, chance=0.4, roam=(30, 45, 70), grow=1.6),
    Part("device", (-70, 95, 100), (18, 4, 20), 0.0900, chance=0.15, roam=(15, 4, 20)),
)
BODIES: dict[str, Sequence[Part]] = {"pelvis": PELVIS, "chest": CHEST}
LANDMARKS: dict[str, tuple[str, ...]] = {
    "pelvis": ("femoral_head", "sacrum", "pubis", "ischium", "trochanter", "l5"),
    "chest": ("heart", "sternum", "clavicle", "liver", "scapula"),
}


def body_key(number: int | Array) -> Key[Array, ""]:
    """The key of a patient, numbered from 0; those below :data:`HELD_OUT` are kept for tests."""
    return jax.random.fold_in(jax.random.key(0), jnp.asarray(number, jnp.uint32))


def draw_body(key: Key[Array, ""], kind: str = "pelvis") -> Body:
    """A patient of one of :data:`BODIES`."""
    require_one_of("body", kind, BODIES)
    parts = [side for part in BODIES[kind] for side in _sides(part)]
    centre, axes, turn, mu, chance, roam, grow = (
        jnp.array([getattr(p, f) for p in parts], jnp.float32)
        for f in ("centre", "axes", "turn", "mu", "chance", "roam", "grow")
    )
    keys = jax.random.split(key, 8)
    size = jnp.exp(SIZE_STD * jax.random.normal(keys[0], (3,)))
    centre = centre + SHIFT_MM * jax.random.normal(keys[1], centre.shape)
    centre = centre + roam * jax.random.uniform(keys[2], centre.shape, minval=-1.0)
    axes = axes * jnp.exp(SIZE_STD * jax.random.normal(keys[3], axes.shape))
    axes = axes * grow[:, None] ** jax.random.uniform(keys[4], (len(parts), 1), minval=-1.0)
    mu = mu * (1 + DENSITY_STD * jax.random.normal(keys[5], mu.shape))
    mu = jnp.where(jax.random.uniform(keys[6], mu.shape) < chance, mu, 0.0)
    wobble = TURN_DEGREES * jax.random.normal(keys[7], (len(parts) + 1, 3))
    turns = jax.vmap(lambda angles: rotation(*angles))(jnp.concatenate([turn, jnp.zeros((1, 3))]) + wobble)
    posture = turns[-1]
    placed = (centre * size) @ posture.T
    names = LANDMARKS[kind]
    shown = [index for index, part in enumerate(parts) if part.name in names]
    found = Ellipsoids(placed, axes * size, jnp.einsum("ab,nbc->nac", posture, turns[:-1]), mu)
    return Body(found, placed[jnp.array(shown)])


def landmark_names(kind: str) -> tuple[str, ...]:
    """Names of a body's landmarks, in order; ``_right`` and ``_left`` are the patient's."""
    names = LANDMARKS[kind]
    sides = {False: ("",), True: ("_right", "_left")}
    return tuple(part.name + side for part in BODIES[kind] if part.name in names for side in sides[part.both])


def _sides(part: Part) -> tuple[Part, ...]:
    if not part.both:
        return (part,)
    (x, y, z), (yaw, pitch, roll) = part.centre, part.turn
    return part, part._replace(centre=(-x, y, z), turn=(-yaw, pitch, -roll))
