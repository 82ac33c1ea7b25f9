"""Optimisers from a few named numbers."""

from dataclasses import dataclass

import jax
import optax

from diffax import checks
from diffax.types import Params


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with optional decoupled weight decay, global-norm clipping, warm-up and decay of the rate."""

    learning_rate: float = 2e-4
    warmup_steps: int = 0
    schedule: str = "constant"  # or "cosine": to end_rate at the run's end
    end_rate: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # 0 switches clipping off
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        inf = float("inf")
        checks.require_number("learning_rate", self.learning_rate, 0.0, inf, "a positive number")
        checks.require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "an integer >= 0")
        checks.require_one_of("schedule", self.schedule, ("constant", "cosine"))
        allowed = f"a number in [0, {self.learning_rate}], 0 for a constant schedule"
        fits = 0 <= self.end_rate <= self.learning_rate * (self.schedule == "cosine")
        checks.require(fits, "end_rate", self.end_rate, allowed)
        checks.require(self.clip_norm >= 0, "clip_norm", self.clip_norm, "a number >= 0")


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then constant, or a cosine to ``end_rate`` at ``num_steps``."""
    warmup = min(config.warmup_steps, num_steps)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, warmup, max(num_steps, warmup + 1), config.end_rate
        )
    if warmup == 0:
        return optax.constant_schedule(config.learning_rate)
    return optax.linear_schedule(0.0, config.learning_rate, warmup)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of ``num_steps``."""
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, _decays))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(config, num_steps)))


def _decays(params: Params) -> Params:
    """Which weights decay: all but the moments of norms that do not learn (``FrozenNorm``)."""
    moments = ("mean", "var")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) not in moments, params
    )
