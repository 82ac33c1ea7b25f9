r"""Linear solvers with their histories: conjugate gradients, CGLS, SIRT."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from diffax.checks import require, require_number
from diffax.inverse.problem import LinearProblem, residual
from diffax.operators import inner, norm
from diffax.types import Scalar


class Solution(NamedTuple):
    """``x``; ``history``, the figure that the solver watches after each step (nan after it stopped).

    ``n_steps`` is the number of steps that were done.
    """

    x: Shaped[Array, "..."]
    history: Float[Array, "steps"]
    n_steps: Int[Array, ""]


def iterate(
    step: Callable[[Any], tuple[Any, Array]], state: Any, n_steps: int, stop: Callable[[Array, Array], Array]
) -> tuple[Any, Float[Array, "steps"], Int[Array, ""]]:
    """Run ``step(state) -> (state, figure)`` until ``stop(figure, figure before)`` or ``n_steps``.

    Before the first step the figure is inf. Returns the state, the figures and the number of steps.
    """
    require(n_steps >= 1, "n_steps", n_steps, "an integer >= 1")

    def go_on(loop: tuple[Any, Array, Array, Array]) -> Array:
        _, _, count, done = loop
        return (count < n_steps) & ~done

    def body(loop: tuple[Any, Array, Array, Array]) -> tuple[Any, Array, Array, Array]:
        state, history, count, _ = loop
        before = jnp.where(count > 0, history[count - 1], jnp.inf)
        state, figure = step(state)
        return state, history.at[count].set(figure), count + 1, stop(figure, before)

    history = jnp.full(n_steps, jnp.nan)
    start = (state, history, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    state, history, count, _ = jax.lax.while_loop(go_on, body, start)
    return state, history, count


def below(tol: float) -> Callable[[Array, Array], Array]:
    """Stop where the figure falls to ``tol``."""
    return lambda figure, before: figure <= tol


def settled(tol: float) -> Callable[[Array, Array], Array]:
    """Stop where the figure changes by less than ``tol`` times itself in a step (0: never)."""
    return lambda figure, before: jnp.abs(before - figure) < tol * jnp.abs(figure)


def cg(
    matrix: Callable[[Array], Array],
    b: Shaped[Array, "..."],
    x: Shaped[Array, "..."] | None = None,
    *,
    n_steps: int,
    tol: float = 0.0,
) -> Solution:
    """Conjugate gradients for ``matrix(x) = b``, a Hermitian and positive definite matrix.

    ``history`` is ``|b - M x| / |b|``. Starts at ``x`` (None: zero); stops after ``n_steps``, at a relative
    residual of ``tol``, or where the residual is zero; below the rounding of b it moves x no more. Hestenes
    & Stiefel 1952, algorithm 3:1.
    """
    require_number("tol", tol, -1e-30, 1.0, "a number in [0, 1)")
    x = jnp.zeros_like(b) if x is None else x
    r = b - matrix(x)
    size = jnp.maximum(norm(b), jnp.finfo(norm(b).dtype).tiny)
    floor = (jnp.finfo(size.dtype).eps * size) ** 2  # below the rounding of b there is nothing to solve

    def step(state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        x, r, p, rr, steepest = state
        q = matrix(p)
        length, steepest = _length(rr, inner(p, q).real, inner(p, p).real, steepest)
        length = jnp.where(rr > floor, length, 0)
        x, r = x + length * p, r - length * q
        after = inner(r, r).real
        return (x, r, r + _ratio(after, rr) * p, after, steepest), jnp.sqrt(after) / size

    rr = inner(r, r).real
    state, history, count = iterate(step, (x, r, r, rr, jnp.zeros_like(rr)), n_steps, below(tol))
    return Solution(state[0], history, count)


def cgls(
    problem: LinearProblem,
    x: Shaped[Array, "h w n"] | None = None,
    *,
    n_steps: int,
    damping: Scalar = 0.0,
    tol: float = 0.0,
) -> Solution:
    """Conjugate gradients for ``min |A x - y|^2 + damping |x - x_start|^2``, without forming ``A^H A``.

    From ``x`` (None: zero); without damping it tends to the solution nearest to the start. ``history`` is
    the size of the gradient ``A^H (y - A x) - damping (x - x_start)`` over that at the start; stops at
    ``tol``. Björck 1996, *Numerical Methods for Least Squares Problems*, algorithm 7.4.1.
    """
    a = problem.operator
    start = jnp.zeros(a.in_shape, a.dtype) if x is None else x
    r = -residual(problem, start)
    s = a.adjoint(r)
    first = inner(s, s).real

    def step(state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        move, r, p, ss, steepest = state
        q, pp = a(p), inner(p, p).real
        length, steepest = _length(ss, inner(q, q).real + damping * pp, pp, steepest)
        move, r = move + length * p, r - length * q
        s = a.adjoint(r) - damping * move
        after = inner(s, s).real
        return (move, r, s + _ratio(after, ss) * p, after, steepest), jnp.sqrt(_ratio(after, first))

    begin = (jnp.zeros_like(start), r, s, first, jnp.zeros_like(first))
    state, history, count = iterate(step, begin, n_steps, below(tol))
    return Solution(start + state[0], history, count)


def sirt(
    problem: LinearProblem,
    x: Shaped[Array, "h w n"] | None = None,
    *,
    n_steps: int,
    relaxation: Scalar = 1.0,
    tol: float = 0.0,
) -> Solution:
    """``x += relaxation C A^T R (y - A x)``, R and C the inverse row and column sums of A.

    For operators without negative entries; converges for a relaxation in (0, 2). ``history`` is
    ``|A x - y|``; stops where that changes by less than ``tol`` of itself. Gilbert 1972 (J. Theor. Biol. 36);
    van der Sluis & van der Vorst 1990.
    """
    require_number("relaxation", relaxation, 0.0, 2.0, "a number in (0, 2)")
    a = problem.operator
    rows = _inverse(a(jnp.ones(a.in_shape, a.dtype)))
    columns = _inverse(a.adjoint(jnp.ones(a.out_shape, a.out_dtype)))
    x = jnp.zeros(a.in_shape, a.dtype) if x is None else x

    def step(x: Array) -> tuple[Array, Array]:
        x = x - relaxation * columns * a.adjoint(rows * residual(problem, x))
        return x, norm(residual(problem, x))

    return Solution(*iterate(step, x, n_steps, settled(tol)))


def _length(rr: Array, curvature: Array, size: Array, steepest: Array) -> tuple[Array, Array]:
    """CG's step, ``rr / curvature``, and the largest curvature of a unit direction so far.

    Directions so flat beside it that their curvature is rounding are left alone: a singular system is solved
    in its range, and does not blow up where nothing but noise is left.
    """
    steepest = jnp.maximum(steepest, _ratio(curvature, size))
    flat = curvature <= 8 * jnp.finfo(rr.dtype).eps * steepest * size
    return jnp.where(flat, 0, _ratio(rr, curvature)), steepest


def _ratio(above: Array, below: Array) -> Array:
    """above / below, 0 where both vanish: a solved system stays solved."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def _inverse(sums: Array) -> Array:
    small = 1e-6 * jnp.max(jnp.abs(sums))
    return jnp.where(jnp.abs(sums) > small, 1 / jnp.where(jnp.abs(sums) > small, sums, 1), 0)
