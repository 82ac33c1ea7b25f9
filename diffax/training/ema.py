r"""Exponential moving averages of parameters: ``ema <- decay ema + (1 - decay) params``.

A schedule maps the step (from 0) to the decay. A run may keep several averages at once, by name.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffax import checks
from diffax.types import Params

EmaSchedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def constant(decay: float) -> EmaSchedule:
    """The same decay at every step, in [0, 1)."""
    _check_decay(decay)
    return lambda step: jnp.asarray(decay, jnp.float32)


def warm_up(decay: float) -> EmaSchedule:
    """``min(decay, (1 + step) / (10 + step))``: short memory at first, so that the start is forgotten."""
    _check_decay(decay)
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)


def power(gamma: float) -> EmaSchedule:
    """``(1 - 1/(step + 1))^(gamma + 1)``: a memory that grows with the run.

    Karras et al. 2024 (arXiv:2312.02696), section 3.1; gamma = 6.94 is a relative width of 0.10.
    """
    checks.require_number("gamma", gamma, 0.0, float("inf"), "a positive number")
    return lambda step: ((1.0 - 1.0 / (step + 1.0)) ** (gamma + 1.0)).astype(jnp.float32)


def parse(name: str) -> EmaSchedule:
    """A schedule from its name in a config: "0.999", "warmup:0.999" or "power:6.94"."""
    kind, _, value = name.rpartition(":")
    kinds = {"": constant, "constant": constant, "warmup": warm_up, "power": power}
    checks.require_one_of("ema", kind, kinds)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"ema: got {name!r}, allowed: '0.999', 'warmup:0.999' or 'power:6.94'") from None
    return kinds[kind](number)


def update(
    averages: Mapping[str, Params],
    params: Params,
    schedules: Mapping[str, EmaSchedule],
    step: Int[Array, ""],
) -> dict[str, Params]:
    """Every named average after one optimiser step."""

    def one(name: str) -> Params:
        rate = 1.0 - schedules[name](step)
        return jax.tree.map(lambda old, new: old + rate * (new - old), averages[name], params)

    return {name: one(name) for name in averages}


def _check_decay(decay: float) -> None:
    checks.require(0.0 <= decay < 1.0, "decay", decay, "a number in [0, 1)")
