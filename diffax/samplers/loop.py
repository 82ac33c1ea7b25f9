"""One scan drives every sampler."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffax import checks
from diffax.processes import GaussianProcess, grids, prior_sample
from diffax.samplers.base import Carry, Sampler, StepContext, fold_keys
from diffax.types import Cond, DenoiseFn, Keys

_PRIOR_TAG = 0x7FFFFFFF  # folded into a key for the start, where steps fold in 0, 1, 2, ...


class SampleOutput(NamedTuple):
    """Samples ``x``, the ``path`` (batch first, the start and every step; None unless asked for), ``nfe``."""

    x: Float[Array, "b ..."]
    path: Float[Array, "b points ..."] | None
    nfe: Int[Array, ""]


class SamplerState(NamedTuple):
    """Between two steps: samples ``x``, what the sampler remembers, and how many steps are done."""

    x: Float[Array, "b ..."]
    carry: Carry
    index: Int[Array, ""]  # type: ignore[assignment]  # tuple has a method of that name


def sample(
    keys: Keys,
    denoise: DenoiseFn,
    process: GaussianProcess,
    sampler: Sampler,
    grid: Float[Array, "points"],
    *,
    shape: Sequence[int] | None = None,
    x_init: Float[Array, "b ..."] | None = None,
    cond: Cond | None = None,
    return_path: bool = False,
) -> SampleOutput:
    """Run a sampler over a grid, from noise to data.

    Args:
      keys: one typed key per sample (``jax.random.split(key, b)``). Step i uses ``fold_in(key, i)``, so a
        sample depends on its own key alone, not on the batch, the shard or the number of devices.
      grid: decreasing times of length n + 1 (:mod:`diffax.processes.grids`).
      shape: of one sample; the start is then drawn from the prior. Or give ``x_init`` at time ``grid[0]``.
      cond: passed to the denoiser at every call.
      return_path: also return every intermediate x (memory grows with n; flat otherwise).

    Raises:
      ValueError: for keys that are not one typed key per sample, both or neither of shape and x_init, or a
        grid that does not decrease inside the process.

    Wrap it in ``jax.jit`` (or :func:`compile`) for repeated use: a bare call traces each time.
    """
    state = begin(keys, process, sampler, grid, shape=shape, x_init=x_init)
    grid, start = jnp.asarray(grid), state.x
    advance_one = _stepper(keys, denoise, process, sampler, grid, cond)

    def body(state: SamplerState, _: None) -> tuple[SamplerState, Array | None]:
        after = advance_one(state)
        return after, (after.x if return_path else None)

    state, path = jax.lax.scan(body, state, None, length=grid.shape[0] - 1)
    if path is not None:
        path = jnp.moveaxis(jnp.concatenate([start[None], path]), 0, 1)
    return SampleOutput(state.x, path, sampler.nfe(process, grid, state.carry))


def begin(
    keys: Keys,
    process: GaussianProcess,
    sampler: Sampler,
    grid: Float[Array, "points"],
    *,
    shape: Sequence[int] | None = None,
    x_init: Float[Array, "b ..."] | None = None,
) -> SamplerState:
    """The state before the first step; arguments and errors as in :func:`sample`."""
    grids.validate(process, grid)
    x = _start(keys, process, shape, x_init)
    return SamplerState(x, sampler.init(x), jnp.zeros((), jnp.int32))


def advance(
    keys: Keys,
    denoise: DenoiseFn,
    process: GaussianProcess,
    sampler: Sampler,
    grid: Float[Array, "points"],
    state: SamplerState,
    n_steps: int,
    *,
    cond: Cond | None = None,
) -> SamplerState:
    """``n_steps`` more steps of :func:`sample`, for long work that is to be saved on the way.

    However a grid is cut into calls, the end is that of one call of ``sample``, up to the rounding of
    differently compiled programs; the same calls from a saved state end bit for bit alike. Raises
    ``ValueError`` for more steps than the grid has left (where that can be read).
    """
    if checks.is_concrete(state.index):
        left = len(grid) - 1 - int(state.index)
        checks.require(0 <= n_steps <= left, "n_steps", n_steps, f"an integer in [0, {left}]")
    step = _stepper(keys, denoise, process, sampler, jnp.asarray(grid), cond)
    return jax.lax.fori_loop(0, n_steps, lambda _, state: step(state), state)


def _stepper(
    keys: Keys,
    denoise: DenoiseFn,
    process: GaussianProcess,
    sampler: Sampler,
    grid: Float[Array, "points"],
    cond: Cond | None,
) -> Callable[[SamplerState], SamplerState]:
    """One step of the grid, from wherever the state is on it."""

    def estimate(x: Array, t: Array, extra: Cond | None = None) -> Array:
        whole = cond if extra is None else {**(cond or {}), **extra}
        return denoise(x, jnp.broadcast_to(t, (x.shape[0],)), whole)

    def step(state: SamplerState) -> SamplerState:
        x, carry, index = state
        t, s = grid[index], grid[index + 1]
        context = StepContext(estimate, process, fold_keys(keys, index), t, s, grid.shape[0] - 1)
        x_next, carry = sampler.step(context, x, carry)
        return SamplerState(x_next.astype(x.dtype), carry, index + 1)

    return step


def _start(
    keys: Keys, process: GaussianProcess, shape: Sequence[int] | None, x_init: Array | None
) -> Float[Array, "b ..."]:
    """The given start, checked, or a draw from the prior."""
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) and keys.ndim == 1
    checks.require(
        typed, "keys", f"{keys.dtype}{keys.shape}", "one typed key per sample, jax.random.split(key, b)"
    )
    given = (shape is not None) + (x_init is not None)
    checks.require(given == 1, "shape, x_init", (shape, type(x_init).__name__), "exactly one of the two")
    if x_init is None:
        return prior_sample(process, fold_keys(keys, _PRIOR_TAG), tuple(shape or ()))
    checks.require(
        x_init.shape[:1] == keys.shape, "x_init", x_init.shape, f"a batch of {keys.shape[0]}, one per key"
    )
    return x_init
