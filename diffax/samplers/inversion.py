"""From images to the noise that deterministic sampling would make them from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffax import checks
from diffax.processes import GaussianProcess, grids
from diffax.types import Cond, DenoiseFn


def ddim_inversion(
    denoise: DenoiseFn,
    process: GaussianProcess,
    x: Float[Array, "b ..."],
    grid: Float[Array, "points"],
    *,
    cond: Cond | None = None,
) -> Float[Array, "b ..."]:
    r"""``x_{t} = alpha_t x0 + sigma_t eps`` from time to time, backwards: the latents of :func:`ddim`.

    ``x`` holds images at time ``grid[-1]``, the result is at ``grid[0]``: the same decreasing grid takes it
    back by ``sample(..., ddim(), grid, x_init=...)``. x0 and eps are estimated where a step begins (at its
    end, where it begins without noise), so the way there and back differ by ``O(1 / steps)``. One call a
    step. Song et al. 2020 (arXiv:2010.02502), section 4.3; Wolleb et al. 2022 (arXiv:2203.04306), eq. 5.

    Raises ``ValueError`` for a grid that does not decrease inside the process.
    """
    grids.validate(process, grid)
    checks.require(x.ndim >= 1, "x.shape", x.shape, "(b, ...)")
    upwards = jnp.flip(jnp.asarray(grid))

    def step(x: Array, times: tuple[Array, Array]) -> tuple[Array, None]:
        s, t = times
        at = jnp.where(process.sigma(s) > 0, s, t)
        x0 = denoise(x, jnp.broadcast_to(at, x.shape[:1]), cond)
        eps = (x - process.alpha(at) * x0) / process.sigma(at)
        return (process.alpha(t) * x0 + process.sigma(t) * eps).astype(x.dtype), None

    return jax.lax.scan(step, x, (upwards[:-1], upwards[1:]))[0]
