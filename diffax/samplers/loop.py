"""One scan drives every sampler."""

from collections.abc import Sequence
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
    grids.validate(process, grid)
    x = _start(keys, process, shape, x_init)
    grid = jnp.asarray(grid)
    batch, n_steps = x.shape[0], grid.shape[0] - 1

    def estimate(x: Array, t: Array, extra: Cond | None = None) -> Array:
        whole = cond if extra is None else {**(cond or {}), **extra}
        return denoise(x, jnp.broadcast_to(t, (batch,)), whole)

    def body(
        state: tuple[Array, Carry], step: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Carry], Array | None]:
        (x, carry), (index, t, s) = state, step
        context = StepContext(estimate, process, fold_keys(keys, index), t, s, n_steps)
        x_next, carry = sampler.step(context, x, carry)
        x_next = x_next.astype(x.dtype)
        return (x_next, carry), (x_next if return_path else None)

    steps = (jnp.arange(n_steps), grid[:-1], grid[1:])
    (last, carry), path = jax.lax.scan(body, (x, sampler.init(x)), steps)
    if path is not None:
        path = jnp.moveaxis(jnp.concatenate([x[None], path]), 0, 1)
    return SampleOutput(last, path, sampler.nfe(process, grid, carry))


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
