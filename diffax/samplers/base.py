"""What a sampler is: a pair ``(init, step)`` and the count of its network calls.

The driver in :mod:`diffax.samplers.loop` scans ``step`` over neighbouring points ``t > s`` of a grid.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffax.processes import GaussianProcess, normal
from diffax.types import Keys

Carry = Any  # what a sampler remembers between steps: any pytree


class StepContext(NamedTuple):
    """One step of the grid, from time ``t`` to the earlier ``s`` (scalars).

    ``estimate(x, t)`` is the denoiser at one time for the whole batch, its condition bound;
    ``estimate(x, t, extra)`` adds entries to the condition for this call. ``keys`` are one per sample and
    fresh at every step. ``n_steps`` is the grid's number of steps.
    """

    estimate: Callable[..., Array]
    process: GaussianProcess
    keys: Keys
    t: Array
    s: Array
    n_steps: int

    def noise(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Standard normal noise shaped as x, each sample from its own key."""
        return normal(self.keys, x.shape[1:]).astype(x.dtype)

    def fold(self, index: int | Int[Array, ""]) -> "StepContext":
        """The same step with other keys: for the parts of a composed sampler."""
        return self._replace(keys=fold_keys(self.keys, index))


class Sampler(NamedTuple):
    """``init(x) -> carry``, ``step(context, x, carry) -> (x, carry)``, ``nfe(process, grid, carry) -> int``.

    ``carry`` holds arrays with a leading batch axis or scalars. ``nfe`` counts the calls of the denoiser
    over a whole grid, given the last carry.
    """

    init: Callable[[Array], Carry]
    step: Callable[[StepContext, Array, Carry], tuple[Array, Carry]]
    nfe: Callable[[GaussianProcess, Array, Carry], Int[Array, ""]]


def memoryless(step: Callable[[StepContext, Array], Array], calls_per_step: int = 1) -> Sampler:
    """A sampler that keeps no carry and calls the denoiser equally often in every step."""
    return Sampler(
        init=lambda x: (),
        step=lambda context, x, carry: (step(context, x), carry),
        nfe=lambda process, grid, carry: jnp.asarray(calls_per_step * (grid.shape[0] - 1)),
    )


def fold_keys(keys: Keys, index: int | Int[Array, ""]) -> Keys:
    """``fold_in`` of every sample's key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


def chain(*samplers: Sampler) -> Sampler:
    """Apply samplers one after another within each step.

    Predictor-corrector is ``chain(corrector, predictor)``: a corrector stays at time t, so it comes before
    the predictor that leaves for s. Song et al. 2021 (arXiv:2011.13456), algorithm 1.
    """

    def init(x: Array) -> Carry:
        return tuple(part.init(x) for part in samplers)

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        carries = []
        for index, (part, own) in enumerate(zip(samplers, carry, strict=True)):
            x, own = part.step(context.fold(index), x, own)
            carries.append(own)
        return x, tuple(carries)

    def nfe(process: GaussianProcess, grid: Array, carry: Carry) -> Array:
        parts = zip(samplers, carry, strict=True)
        return jnp.sum(jnp.stack([part.nfe(process, grid, own) for part, own in parts]))

    return Sampler(init, step, nfe)
