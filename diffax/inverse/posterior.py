r"""Posterior samplers that need more than a better x0_hat: a state, a gradient, or the noisy iterate.

All are :class:`diffax.samplers.Sampler`; those without network calls of their own are made for ``chain``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffax.checks import require, require_number
from diffax.inverse.linear import cg, cgls
from diffax.inverse.problem import LinearProblem, residual, to_batch, to_images
from diffax.inverse.total_variation import Split, admm_sweep, split_of
from diffax.operators import gradient
from diffax.processes import GaussianProcess
from diffax.samplers import Sampler, StepContext, ddim, ddpm, memoryless
from diffax.samplers.base import Carry
from diffax.types import Scalar

Anchor = Callable[[GaussianProcess, Array], Array]


def dds_volume(
    problem: LinearProblem,
    *,
    weight: Scalar,
    rho: Scalar = 1.0,
    eta: float = 0.85,
    n_sweeps: int = 1,
    n_cg: int = 5,
    anchor: Scalar | Anchor = 0.0,
    axes: Sequence[str] = ("z",),
    isotropic: bool = False,
) -> Sampler:
    r"""Decomposed diffusion sampling of a volume: DDIM with an estimate that agrees with data and along z.

    Each step runs ``n_sweeps`` of ADMM for ``|A x - y|^2/2 + weight TV_z(x) + anchor |x - x0_hat|^2/2`` from
    x0_hat, whose variables are shared by all steps, and hands the result to :func:`ddim` as the estimate.
    ``anchor`` may depend on the time, as a function of (process, t). For a normalised problem; without
    ``axes`` there is no prior along z, and slices share but the lengths of CG's steps. Chung et al. 2023
    (arXiv:2303.05754), section 4.2, with differences along z that do not wrap around.
    """
    require(n_sweeps >= 1 and n_cg >= 1, "n_sweeps, n_cg", (n_sweeps, n_cg), "integers >= 1")
    a, follow = problem.operator, ddim(eta)
    differences = gradient(a.in_shape, tuple(axes), a.dtype) if axes else None

    def refine(start: Array, split: Carry, hold: Scalar) -> tuple[Array, Carry]:
        images = start
        for _ in range(n_sweeps):
            if differences is None:
                b = a.adjoint(problem.y) + hold * start
                images = cg(lambda v: a.normal(v) + hold * v, b, images, n_steps=n_cg).x
            else:
                images, split = admm_sweep(
                    problem, differences, images, split, weight=weight, rho=rho, n_cg=n_cg,
                    isotropic=isotropic, anchor=start, anchor_weight=hold,
                )  # fmt: skip
        return images, split

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        x0 = context.estimate(x, context.t)
        hold = anchor(context.process, context.t) if callable(anchor) else anchor
        images, split = refine(to_images(problem, x0), carry, hold)
        refined = to_batch(images, x0)
        x, _ = follow.step(context._replace(estimate=lambda *_: refined), x, ())
        return x, split

    return Sampler(lambda x: split_of(differences) if differences else (), step, _one_call)


def tv_consistency(
    problem: LinearProblem,
    *,
    weight: Scalar,
    rho: Scalar,
    n_cg: int = 1,
    axes: Sequence[str] = ("z",),
    isotropic: bool = False,
) -> Sampler:
    """One sweep of ADMM for ``|A x - y|^2/2 + weight TV_z(x)`` on the iterate as it is, noise and all.

    For ``chain``, after the step that arrives at s. One pair of variables serves all steps, never reset.
    """
    differences = gradient(problem.operator.in_shape, tuple(axes), problem.operator.dtype)

    def step(context: StepContext, x: Array, carry: Split) -> tuple[Array, Split]:
        size = context.process.alpha(context.s)
        images, split = admm_sweep(
            problem, differences, to_images(problem, x / size), carry,
            weight=weight, rho=rho, n_cg=n_cg, isotropic=isotropic,
        )  # fmt: skip
        return size * to_batch(images, x / size), split

    return Sampler(lambda x: split_of(differences), step, _no_calls)


def dps(problem: LinearProblem, strength: Scalar = 1.0, inner: Sampler | None = None) -> Sampler:
    r"""``x_s = inner(x_t) - strength d/dx_t |y - A x0_hat(x_t)|``, the norm of each sample by itself.

    One network call and one backward pass a step; ``inner`` (None: ``ddpm()``) is a sampler of one call,
    which is given the same estimate. The likelihood is taken at x0_hat alone: posteriors come out too narrow
    where x0 given x_t is still wide. Chung et al. 2022 (arXiv:2209.14687), algorithm 1.
    """
    follow = inner or ddpm()

    def step(context: StepContext, x: Array, carry: Carry) -> tuple[Array, Carry]:
        def distance(x: Array) -> tuple[Array, Array]:
            x0 = context.estimate(x, context.t)
            return jnp.sum(_distances(problem, x0)), x0

        (_, x0), slope = jax.value_and_grad(distance, has_aux=True)(x)
        moved, carry = follow.step(context._replace(estimate=lambda *_: x0), x, carry)
        return moved - strength * slope, carry

    return Sampler(follow.init, step, _one_call)


def replacement(problem: LinearProblem, strength: Scalar = 1.0, n_cg: int = 5) -> Sampler:
    r"""``x <- x + strength A^+ (alpha y + sigma A z - A x)``: what was measured, noised to the level of x.

    For ``chain``, before the step that leaves t; z is fresh noise. For an operator that selects coefficients
    (a mask of k-space) A^+ is its adjoint, and this is the method of Song et al. 2022 (arXiv:2111.08005),
    eq. 8, with strength their lambda; other operators take ``n_cg`` steps of CGLS for A^+.
    """

    def step(context: StepContext, x: Array) -> Array:
        process, t, a = context.process, context.t, problem.operator
        images = to_images(problem, x)
        noise = a(to_images(problem, context.noise(x)))
        noised = LinearProblem(a, process.alpha(t) * problem.y + process.sigma(t) * noise)
        nearest = cgls(noised, images, n_steps=n_cg).x
        return to_batch(images + strength * (nearest - images), x)

    return memoryless(step, 0)


def red_diff(
    problem: LinearProblem,
    *,
    learning_rate: float = 0.1,
    weight: Scalar = 0.25,
    b1: float = 0.9,
    b2: float = 0.99,
) -> Sampler:
    r"""A variational fit of one image, by Adam on data and denoising at once.

    The objective is ``|A x - y|^2/2 + weight (sigma/alpha) <x, sg(eps_hat - eps)>``. x is the image
    itself, not a noisy one (start it with ``x_init``, such as the adjoint's or FBP's image); at each t of the
    grid it is noised, denoised, and pulled. The mode, not a sample. For a normalised problem. Mardani et al.
    2023 (arXiv:2305.04391), algorithm 1, with their weight 1/SNR.
    """
    require_number("learning_rate", learning_rate, 0.0, jnp.inf, "above 0")

    def step(context: StepContext, x: Array, carry: Any) -> tuple[Array, Any]:
        process, t = context.process, context.t
        alpha, sigma = process.alpha(t), process.sigma(t)
        z = context.noise(x)
        x0 = context.estimate(alpha * x + sigma * z, t)
        # eps_hat - eps = alpha (x - x0_hat) / sigma
        pull = weight * (x - x0)
        images = to_images(problem, x)
        slope = pull + to_batch(problem.operator.adjoint(residual(problem, images)), jnp.zeros_like(x))
        first, second, count = carry
        count = count + 1
        first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
        move = (first / (1 - b1**count)) / (jnp.sqrt(second / (1 - b2**count)) + 1e-8)
        return x - learning_rate * move, (first, second, count)

    def init(x: Array) -> Any:
        return jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(())

    return Sampler(init, step, _one_call)


def sart_step(problem: LinearProblem, images: Shaped[Array, "h w n"]) -> Shaped[Array, "h w n"]:
    """``x + A^T (y - A x) / A^T (A 1)``: the one step to the data that ends published CT reconstructions."""
    a = problem.operator
    sums = a.normal(jnp.ones(a.in_shape, a.dtype))
    return images - a.adjoint(residual(problem, images)) / jnp.where(sums > 0, sums, 1)


def _distances(problem: LinearProblem, x0: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """``|y - A x0|`` of each sample: all axes but the last of y belong to one layer, c layers to a sample."""
    r = residual(problem, to_images(problem, x0))
    layers = jnp.sum(jnp.abs(r.reshape(-1, r.shape[-1])) ** 2, axis=0)
    total = jnp.sum(layers.reshape(-1, x0.shape[3]), axis=1)
    return jnp.sqrt(jnp.maximum(total, jnp.finfo(total.dtype).tiny))


def _one_call(process: GaussianProcess, grid: Array, carry: Carry) -> Array:
    return jnp.asarray(grid.shape[0] - 1)


def _no_calls(process: GaussianProcess, grid: Array, carry: Carry) -> Array:
    return jnp.zeros((), jnp.int32)
