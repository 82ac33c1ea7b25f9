r"""Total variation: ``min |A x - y|^2 / 2 + weight TV(x)`` by ADMM and by FISTA.

``TV(x)`` sums the sizes of the differences ``D x`` along the chosen axes: anisotropic ``sum |D_a x|``, or
isotropic ``sum sqrt(sum_a |D_a x|^2)``. With the axis "z" alone it couples slices and leaves each of them be.
Neumann ends: nothing wraps around.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffax.checks import require_number
from diffax.inverse.linear import Solution, cg, iterate, settled
from diffax.inverse.problem import LinearProblem, residual
from diffax.operators import LinearOperator, gradient, inner, operator_norm
from diffax.types import Scalar

AXES = ("x", "y", "z")


class Split(NamedTuple):
    """What ADMM keeps between sweeps: ``z``, its copy of ``D x``, and the scaled multiplier ``u``."""

    z: Shaped[Array, "axes h w n"]
    u: Shaped[Array, "axes h w n"]


def split_of(differences: LinearOperator) -> Split:
    """The start, ``z = u = 0``."""
    zero = jnp.zeros(differences.out_shape, differences.out_dtype)
    return Split(zero, zero)


def total_variation(d: Shaped[Array, "axes h w n"], isotropic: bool = True) -> Float[Array, ""]:
    """TV from the differences ``d = D x``, axes first."""
    return jnp.sum(jnp.sqrt(jnp.sum(jnp.abs(d) ** 2, axis=0)) if isotropic else jnp.abs(d))


def shrink(
    d: Shaped[Array, "axes h w n"], amount: Scalar, isotropic: bool = True
) -> Shaped[Array, "axes h w n"]:
    """The proximal map of ``amount TV``: sizes less ``amount``, never below zero; 0 stays 0."""
    size = jnp.sqrt(jnp.sum(jnp.abs(d) ** 2, axis=0, keepdims=True)) if isotropic else jnp.abs(d)
    return d * jnp.maximum(1 - amount / jnp.maximum(size, jnp.finfo(size.dtype).tiny), 0).astype(size.dtype)


def admm_sweep(
    problem: LinearProblem,
    differences: LinearOperator,
    x: Shaped[Array, "h w n"],
    split: Split,
    *,
    weight: Scalar,
    rho: Scalar,
    n_cg: int,
    isotropic: bool = True,
    anchor: Shaped[Array, "h w n"] | None = None,
    anchor_weight: Scalar = 0.0,
) -> tuple[Shaped[Array, "h w n"], Split]:
    r"""One sweep of ADMM for ``|A x - y|^2/2 + anchor_weight |x - anchor|^2/2 + weight TV(x)``.

    ``x <- n_cg`` steps of conjugate gradients, from x, on
    ``(A^H A + rho D^T D + anchor_weight) x = A^H y + rho D^T (z - u) + anchor_weight anchor``;
    ``z <- shrink(D x + u, weight / rho)``; ``u <- u + D x - z``. Boyd et al. 2011, section 6.4. With weight
    and rho 0 there is no prior.
    """
    a = problem.operator
    b = a.adjoint(problem.y) + rho * differences.adjoint(split.z - split.u)
    if anchor is not None:
        b = b + anchor_weight * anchor

    def matrix(v: Array) -> Array:
        v_out = a.normal(v) + rho * differences.normal(v)
        return v_out if anchor is None else v_out + anchor_weight * v

    x = cg(matrix, b, x, n_steps=n_cg).x
    dx = differences(x)
    z = shrink(dx + split.u, weight / jnp.maximum(rho, 1e-30), isotropic)
    return x, Split(z, split.u + dx - z)


def objective(
    problem: LinearProblem,
    differences: LinearOperator,
    x: Shaped[Array, "h w n"],
    weight: Scalar,
    isotropic: bool,
) -> Float[Array, ""]:
    """``|A x - y|^2 / 2 + weight TV(x)``."""
    r = residual(problem, x)
    return inner(r, r).real / 2 + weight * total_variation(differences(x), isotropic)


def admm_tv(
    problem: LinearProblem,
    weight: Scalar,
    *,
    rho: Scalar | None = None,
    axes: Sequence[str] = AXES,
    isotropic: bool = True,
    n_steps: int = 200,
    n_cg: int = 5,
    tol: float = 0.0,
    x: Shaped[Array, "h w n"] | None = None,
) -> Solution:
    """ADMM with ``n_cg`` warm-started steps of conjugate gradients a sweep; ``history`` is the objective.

    ``rho`` changes the speed, not the solution; None takes ``0.1 ||A||^2``.
    Stops where the objective changes by less than ``tol`` of itself in a sweep (which may rise at first).
    """
    require_number("weight", weight, -1e-30, jnp.inf, "a number >= 0")
    a = problem.operator
    d = gradient(a.in_shape, axes, a.dtype)
    speed = 0.1 * operator_norm(a) ** 2 if rho is None else rho
    x = jnp.zeros(a.in_shape, a.dtype) if x is None else x

    def step(state: tuple[Array, Split]) -> tuple[tuple[Array, Split], Array]:
        x, split = admm_sweep(problem, d, *state, weight=weight, rho=speed, n_cg=n_cg, isotropic=isotropic)
        return (x, split), objective(problem, d, x, weight, isotropic)

    state, history, count = iterate(step, (x, split_of(d)), n_steps, settled(tol))
    return Solution(state[0], history, count)


def fista_tv(
    problem: LinearProblem,
    weight: Scalar,
    *,
    axes: Sequence[str] = AXES,
    isotropic: bool = True,
    bounds: tuple[float, float] | None = None,
    n_steps: int = 200,
    n_dual: int = 10,
    tol: float = 0.0,
    x: Shaped[Array, "h w n"] | None = None,
) -> Solution:
    """Accelerated proximal gradients; ``bounds`` keeps real voxels in an interval.

    ``history`` is the objective. The step is ``1 / ||A||^2`` (with 2 % to spare); the proximal map of TV is
    solved in its dual by ``n_dual`` accelerated steps, warm-started. Beck & Teboulle 2009 (IEEE TIP 18),
    algorithms MFISTA (without the monotone choice) and FGP.
    """
    a = problem.operator
    d = gradient(a.in_shape, axes, a.dtype)
    lipschitz = 1.02 * operator_norm(a) ** 2
    x = jnp.zeros(a.in_shape, a.dtype) if x is None else x

    def clip(v: Array) -> Array:
        return v if bounds is None else jnp.clip(v, *bounds)

    def step(state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        x, v, t, dual = state
        target = v - a.adjoint(residual(problem, v)) / lipschitz
        after, dual = _denoise(d, target, weight / lipschitz, dual, clip, n_dual, isotropic, 4.0 * len(axes))
        t_after = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        v = after + (t - 1) / t_after * (after - x)
        return (after, v, t_after, dual), objective(problem, d, after, weight, isotropic)

    start = (x, x, jnp.ones(()), split_of(d).z)
    state, history, count = iterate(step, start, n_steps, settled(tol))
    return Solution(state[0], history, count)


def _denoise(
    d: LinearOperator,
    target: Array,
    weight: Scalar,
    dual: Array,
    clip: Callable[[Array], Array],
    n_steps: int,
    isotropic: bool,
    bound: float,
) -> tuple[Array, Array]:
    """``argmin |x - target|^2/2 + weight TV(x)`` in the box, and its dual p.

    ``x = clip(target - weight D^T p)``.
    """

    def primal(p: Array) -> Array:
        return clip(target - weight * d.adjoint(p))

    def step(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        p, q, t = state
        moved = q + d(primal(q)) / (bound * jnp.maximum(weight, 1e-30))
        size = jnp.sqrt(jnp.sum(jnp.abs(moved) ** 2, axis=0, keepdims=True)) if isotropic else jnp.abs(moved)
        after = moved / jnp.maximum(size, 1)
        t_after = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return after, after + (t - 1) / t_after * (after - p), t_after

    p, _, _ = jax.lax.fori_loop(0, n_steps, step, (dual, dual, jnp.ones(())))
    return primal(p), p
