"""Errors from bad input: one line that names the field, the value and what is allowed."""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np


def is_concrete(value: Any) -> bool:
    """True if the value can be read now, so that checking it costs no trace."""
    return not isinstance(value, jax.core.Tracer)


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raise ``ValueError("field: got value, allowed: ...")`` unless the condition holds."""
    if not condition:
        raise ValueError(f"{field}: got {value!r}, allowed: {allowed}")


def require_number(field: str, value: Any, low: float, high: float, allowed: str) -> None:
    """Check a Python or numpy number against an open interval; leave tracers and arrays alone."""
    if isinstance(value, (int, float, np.number)):
        require(bool(low < value < high), field, value, allowed)


def require_one_of(field: str, value: Any, options: Collection[str]) -> None:
    """Raise unless the value is one of the named options."""
    require(value in options, field, value, "one of " + ", ".join(sorted(options)))
