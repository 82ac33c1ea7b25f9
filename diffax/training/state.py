"""What training carries from step to step: one value, saved and restored whole."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Key

from diffax.types import Params


class NetState(struct.PyTreeNode):
    """One network: parameters, optimiser state, named moving averages, and other mutable collections."""

    params: Params
    opt_state: Any
    ema: Mapping[str, Params]
    mutable: Mapping[str, Any] = struct.field(default_factory=dict)

    def averaged(self, name: str) -> Params:
        """The parameters to sample with: a moving average by its name, or ("") the raw ones."""
        return self.ema[name] if name else self.params


class TrainState(struct.PyTreeNode):
    """All networks of a run, the step, and the run's key.

    ``key`` is never advanced: step i draws from ``fold_in(key, i)``, so a resumed run sees the same noise.
    ``frozen`` holds parameters that are used but not trained (a teacher, an encoder).
    """

    # step is Int[Array, ""] and key Key[Array, ""]; as a pytree the state may also hold shardings or shapes
    step: Any
    nets: Mapping[str, NetState]
    frozen: Mapping[str, Params]
    key: Any

    @classmethod
    def create(
        cls, key: Key[Array, ""], nets: Mapping[str, NetState], frozen: Mapping[str, Params] | None = None
    ) -> "TrainState":
        """A state at step 0."""
        return cls(jnp.zeros((), jnp.int32), dict(nets), dict(frozen or {}), key)

    def step_key(self) -> Key[Array, ""]:
        """The key of the current step."""
        return jax.random.fold_in(self.key, self.step)


def count_params(params: Params) -> int:
    """Number of scalars in a pytree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
