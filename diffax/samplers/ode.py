r"""Adaptive Dormand-Prince 5(4) in the graph, each sample with its own step size.

The error of one sample never changes another's steps, so results do not depend on the batch.
Dormand & Prince 1980; step control as in Hairer, Norsett & Wanner, Solving ODEs I, II.4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffax import checks
from diffax.processes import GaussianProcess, per_sample, rates
from diffax.samplers.base import Carry, Sampler, StepContext

Y = Any  # a pytree of arrays with a leading batch axis

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# fifth-order weights less the embedded fourth-order ones
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class OdeSolution(NamedTuple):
    """The final state, and how many times the (batched) right-hand side was called."""

    y: Array
    calls: Int[Array, ""]


class _State(NamedTuple):
    y: Y
    slope: Y  # of y at t: the last stage of one step is the first of the next
    t: Float[Array, "b"]
    width: Float[Array, "b"]  # signed size of the step to try
    tries: Int[Array, ""]


def integrate(
    slope: Callable[[Float[Array, "b"], Y], Y],
    y: Y,
    start: Float[Array, ""] | float,
    stop: Float[Array, ""] | float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
) -> OdeSolution:
    """Solve ``dy/dt = slope(t, y)`` from ``start`` to ``stop``, in either direction.

    ``y`` is a pytree of arrays with a leading batch axis; ``slope`` gets one time per sample. A step is
    accepted where the root-mean-square of ``error / (atol + rtol |y|)`` is at most 1 on every leaf. A sample
    that has not arrived after ``max_steps`` tries comes back as NaN.
    """
    batch = jax.tree.leaves(y)[0].shape[0]
    dtype = jax.tree.leaves(y)[0].dtype
    end = jnp.full((batch,), stop, dtype)
    t = jnp.full((batch,), start, dtype)

    def unfinished(state: _State) -> Array:
        return jnp.any(state.t != end) & (state.tries < max_steps)

    def attempt(state: _State) -> _State:
        left = end - state.t
        width = jnp.where(jnp.abs(state.width) >= jnp.abs(left), left, state.width)
        proposal, last_slope, error = _stages(slope, state, width)
        norm = _error_norm(error, state.y, proposal, rtol, atol)
        accepted = (norm <= 1.0) & (state.t != end)
        factor = jnp.clip(0.9 * jnp.where(norm > 0.0, norm, 1e-10) ** -0.2, min=0.2, max=10.0)
        factor = jnp.where(jnp.isfinite(norm), factor, 0.2)
        arrived = jnp.where(width == left, end, state.t + width)
        return _State(
            y=_where(accepted, proposal, state.y),
            slope=_where(accepted, last_slope, state.slope),
            t=jnp.where(accepted, arrived, state.t),
            width=jnp.where(state.t == end, state.width, width * factor),
            tries=state.tries + 1,
        )

    first = _State(y, slope(t, y), t, 0.01 * (end - t), jnp.asarray(0))
    last = jax.lax.while_loop(unfinished, attempt, first)
    solved = _where(last.t == end, last.y, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), y))
    return OdeSolution(solved, 6 * last.tries + 1)


def probability_flow(rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 10_000) -> Sampler:
    r"""Solve ``dx/dt = alpha' x0 + sigma' eps`` adaptively between the points of the grid.

    Two points are enough: ``grids.uniform(process, 1)``. A step to zero returns the denoised estimate.
    Song et al. 2021 (arXiv:2011.13456), eq. 13.
    """
    checks.require_number("rtol", rtol, 0.0, 1.0, "a number in (0, 1)")
    checks.require_number("atol", atol, 0.0, np.inf, "a positive number")

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        def solve(x: Array) -> tuple[Array, Array]:
            def slope(t: Array, x: Array) -> Array:
                return velocity(context.estimate, context.process, x, t)

            solution = integrate(slope, x, context.t, context.s, rtol=rtol, atol=atol, max_steps=max_steps)
            return solution.y, solution.calls

        def to_zero(x: Array) -> tuple[Array, Array]:
            return context.estimate(x, context.t).astype(x.dtype), jnp.asarray(1)

        x, calls = jax.lax.cond(context.process.sigma(context.s) > 0.0, solve, to_zero, x)
        return x, carry + calls

    return Sampler(lambda x: jnp.asarray(0), step, lambda process, grid, carry: carry)


def velocity(
    estimate: Callable[[Array, Array], Array],
    process: GaussianProcess,
    x: Float[Array, "b ..."],
    t: Float[Array, "b"],
) -> Float[Array, "b ..."]:
    """The flow ``dx/dt = alpha' x0 + (sigma' / sigma) (x - alpha x0)``, finite where alpha = 0."""
    (alpha, sigma, _), d_alpha, d_sigma = (
        jax.tree.map(lambda c: per_sample(c, x), c) for c in rates(process, t)
    )
    x0 = estimate(x, t)
    return d_alpha * x0 + d_sigma / sigma * (x - alpha * x0)


def _stages(slope: Callable[[Array, Y], Y], state: _State, width: Array) -> tuple[Y, Y, Y]:
    """The fifth-order proposal, its slope, and the error estimate."""
    slopes = [state.slope]
    point = state.y
    for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
        point = _advance(state.y, slopes, weights, width)
        slopes.append(slope(state.t + node * width, point))
    zero = jax.tree.map(jnp.zeros_like, state.y)
    return point, slopes[-1], _advance(zero, slopes, _ERROR, width)


def _advance(y: Y, slopes: list[Y], weights: tuple[float, ...], width: Array) -> Y:
    """``y + width sum_i weights_i slopes_i`` on every leaf."""

    def leaf(base: Array, *parts: Array) -> Array:
        total = sum(w * part for w, part in zip(weights, parts, strict=True) if w)
        return base + per_sample(width, base) * total

    return jax.tree.map(leaf, y, *slopes)


def _error_norm(error: Y, old: Y, new: Y, rtol: float, atol: float) -> Float[Array, "b"]:
    """The largest over the leaves of the root-mean-square error in units of the tolerance."""

    def leaf(e: Array, a: Array, b: Array) -> Array:
        scaled = e / (atol + rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)))
        return jnp.sqrt(jnp.mean(scaled.reshape(e.shape[0], -1) ** 2, axis=1))

    norms = jax.tree.leaves(jax.tree.map(leaf, error, old, new))
    return jnp.max(jnp.stack(norms), axis=0)


def _where(accept: Bool[Array, "b"], new: Y, old: Y) -> Y:
    return jax.tree.map(lambda a, b: jnp.where(per_sample(accept, a), a, b), new, old)
