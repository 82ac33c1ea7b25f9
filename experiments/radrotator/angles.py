"""Angles as the command line gives them: ``ap; left; 10,-5,0; -15:15:5,0,0``."""

import itertools
from typing import NamedTuple

import numpy as np

from diffax import checks
from diffax.operators.c_arm import VIEWS

MOST = 10_000  # views of one call: files are numbered by four digits
_ALLOWED = f"items separated by ;, each one of {', '.join(VIEWS)}, or yaw,pitch,roll with start:stop:step"


class Angles(NamedTuple):
    """Where the C-arm stands, in degrees."""

    yaw: float
    pitch: float
    roll: float


def parse_angles(text: str) -> list[Angles]:
    """All views that a text names; of ranges, whose ends belong to them, every combination.

    Raises ``ValueError`` for what is neither a view nor three numbers or ranges, and for too many.
    """
    items = [item.strip().lower() for item in text.split(";") if item.strip()]
    checks.require(len(items) > 0, "--angles", text, _ALLOWED)
    found: list[Angles] = []
    for item in items:
        axes = [(angle,) for angle in VIEWS[item]] if item in VIEWS else _axes(item)
        count = len(found) + int(np.prod([len(axis) for axis in axes], dtype=np.int64))
        checks.require(count <= MOST, "--angles: views", count, f"at most {MOST}")
        found += [Angles(*each) for each in itertools.product(*axes)]
    return found


def parse_numbers(flag: str, text: str, count: int) -> tuple[float, ...]:
    """So many finite numbers, separated by commas."""
    allowed = f"{count} numbers, separated by commas"
    values = tuple(_number(flag, part, allowed) for part in text.strip("() ").split(","))
    checks.require(len(values) == count, flag, text, allowed)
    return values


def caption(angles: Angles) -> str:
    """A view's name, or its angles."""
    names = [name for name, known in VIEWS.items() if known == tuple(angles)]
    return names[0].upper() if names else ", ".join(f"{angle + 0.0:g}" for angle in angles)


def _axes(item: str) -> list[tuple[float, ...]]:
    parts = item.strip("() ").split(",")
    checks.require(len(parts) == 3, "--angles", item, _ALLOWED)
    return [_range(part) for part in parts]


def _range(part: str) -> tuple[float, ...]:
    values = [_number("--angles", piece, _ALLOWED) for piece in part.split(":")]
    if len(values) == 1:
        return (values[0],)
    checks.require(len(values) == 3, "--angles", part, "start:stop:step")
    start, stop, step = values
    checks.require(step != 0 and (stop - start) / step >= 0, "--angles", part, "a step from start to stop")
    steps = (stop - start) / step + 1e-6  # 0.1 is no number of the computer's
    checks.require(steps < MOST, "--angles", part, f"at most {MOST} values")
    return tuple(round(start + k * step, 9) for k in range(int(steps) + 1))


def _number(flag: str, text: str, allowed: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{flag}: got {text.strip()!r}, allowed: {allowed}") from None
    checks.require(bool(np.isfinite(value)), flag, text, "finite numbers")
    return value
