"""Activations inside a network, for those that read them: discriminators, probes, distances.

A network names some of its activations with :func:`keep`, at no cost where nobody asks; :func:`apply_keeping`
runs it and hands them out. U-Nets keep ``level0``, ``level1``, ... (the encoder's last activation of each
resolution) and ``middle``, transformers and residual perceptrons ``hidden0``, ``hidden1``, ...
(after each block).
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from diffax.types import Cond, Params

_COLLECTION = "features"
Features = Mapping[str, Array]


def keep(module: nn.Module, name: str, value: Float[Array, "b ..."]) -> None:
    """Offer an activation under a name, from within a module's call."""
    if not module.is_initializing():
        module.sow(_COLLECTION, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)


def apply_keeping(
    model: nn.Module, params: Params, x: Float[Array, "b ..."], time: Float[Array, "b"], cond: Cond | None
) -> tuple[Array, dict[str, Any]]:
    """``model.apply`` at inference: its output, and the activations that the model itself keeps, by name."""
    out, kept = model.apply({"params": params}, x, time, cond, mutable=[_COLLECTION])
    return out, dict(kept.get(_COLLECTION, {}))
