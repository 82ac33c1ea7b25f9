r"""Posterior denoisers: from ``E[x0 | x_t]`` to an estimate of ``E[x0 | x_t, y]``, one transform a method.

Each maps a denoiser to a denoiser and so works with every sampler. They differ in what they take for the
covariance C of ``x0 | x_t``. Were ``x0 | x_t`` Gaussian, the answer would be

    ``E[x0 | x_t, y] = x0_hat + C A^H (A C A^H + noise_std^2)^{-1} (y - A x0_hat)``,

and with ``C = r^2 I`` that is the x nearest to data and x0_hat at once,
``argmin |A x - y|^2 / noise_std^2 + |x - x0_hat|^2 / r^2``.

========================  ======================================================  ==========================
:func:`ddnm`              ``C = r^2 I``, no noise: projection onto ``A x = y``    noisy y is fitted too
:func:`dds`               ``r^2 = weight noise_std^2``, a constant                too timid at high noise
:func:`diffpir`           ``r = sigma / alpha`` (over sqrt(strength))             too bold at high noise
:func:`isotropic`         ``1 / r^2 = 1 / prior_std^2 + (alpha / sigma)^2``       exact for N(m, prior_std^2)
:func:`pigdm`             the same r, moved along the network's Jacobian          exact for N(m, prior_std^2)
:func:`tweedie_covariance`  ``C = sigma^2 / alpha J``, J the network's Jacobian   exact for any Gaussian
========================  ======================================================  ==========================
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffax.checks import require_number
from diffax.inverse.linear import cg
from diffax.inverse.problem import LinearProblem, residual, to_batch, to_images
from diffax.processes import GaussianProcess, per_sample
from diffax.types import Cond, DenoiseFn, DenoiseTransform, Scalar

Variance = Callable[[GaussianProcess, Float[Array, "b"]], Float[Array, "b"]]


def ddnm(problem: LinearProblem, n_steps: int = 20) -> DenoiseTransform:
    """The point of ``A x = y`` nearest to x0_hat: ``x0_hat + A^+ (y - A x0_hat)``, for noise-free y.

    ``A^+`` by ``n_steps`` of CGLS. Wang et al. 2022 (arXiv:2212.00490), eq. 13.
    """
    return _corrected(problem, lambda t: jnp.zeros_like(t), n_steps)


def dds(problem: LinearProblem, weight: Scalar = 5.0, n_steps: int = 5) -> DenoiseTransform:
    """``argmin weight |A x - y|^2 + |x - x0_hat|^2`` by ``n_steps`` of conjugate gradients from x0_hat.

    For a normalised problem. Chung et al. 2023 (arXiv:2303.05754), algorithm 2. (Volumes: see
    :func:`diffax.inverse.dds_volume`.)
    """
    require_number("weight", weight, 0.0, jnp.inf, "above 0")
    return _corrected(problem, lambda t: jnp.full_like(t, 1 / weight), n_steps)


def diffpir(
    problem: LinearProblem, process: GaussianProcess, strength: Scalar = 1.0, n_steps: int = 20
) -> DenoiseTransform:
    """``argmin |A x - y|^2 / noise_std^2 + strength (alpha / sigma)^2 |x - x0_hat|^2``, noise_std a number.

    Zhu et al. 2023 (arXiv:2305.08995), eq. 12 to 14 (there strength is called lambda).
    """
    return _corrected(problem, _damping(problem, lambda p, t: _ratio2(p, t) / strength, process), n_steps)


def isotropic(
    problem: LinearProblem, process: GaussianProcess, prior_std: Scalar = 1.0, n_steps: int = 20
) -> DenoiseTransform:
    """``argmin |A x - y|^2 / noise_std^2 + |x - x0_hat|^2 / r^2`` with r^2 the variance of x0 given x_t.

    ``1/r^2 = 1/prior_std^2 + (alpha/sigma)^2``: the exact ``E[x0 | x_t, y]`` of data N(m, prior_std^2 I).
    """
    variance = _shrunk(prior_std)
    return _corrected(problem, _damping(problem, variance, process), n_steps)


def pigdm(
    problem: LinearProblem, process: GaussianProcess, prior_std: Scalar = 1.0, n_steps: int = 20
) -> DenoiseTransform:
    """``x0_hat + sigma^2/alpha J^T A^H (r^2 A A^H + noise_std^2)^{-1} (y - A x0_hat)``, J = dx0_hat/dx.

    The guidance of pseudo-inverses, with r as in :func:`isotropic`; one backward pass through the network a
    call. Exact for data N(m, prior_std^2 I). Song et al. 2023 (ICLR, "Pseudoinverse-guided diffusion
    models"), eq. 7.
    """
    variance = _shrunk(prior_std)
    damping = _damping(problem, variance, process)

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def refined(x: Array, t: Array, cond: Cond | None = None) -> Array:
            x0, pull_back = jax.vjp(lambda v: denoise(v, t, cond), x)
            move = to_batch(
                _correction(problem, to_images(problem, x0), damping(t), n_steps), jnp.zeros_like(x0)
            )
            gain = _gain(process, t) / variance(process, t)
            return x0 + per_sample(gain, x) * pull_back(move)[0]

        return refined

    return transform


def tweedie_covariance(
    problem: LinearProblem, process: GaussianProcess, n_steps: int = 5
) -> DenoiseTransform:
    """``x0_hat + C A^H (A C A^H + noise_std^2)^{-1} (y - A x0_hat)`` with ``C = sigma^2/alpha J``.

    C is Tweedie's covariance; exact for every Gaussian prior. Each of the ``n_steps`` of conjugate
    gradients costs a backward pass through the network. Boys et al. 2023 (arXiv:2310.06721); Rozet et al.
    2024 (arXiv:2405.13712), eq. 10.
    """

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def refined(x: Array, t: Array, cond: Cond | None = None) -> Array:
            x0, pull_back = jax.vjp(lambda v: denoise(v, t, cond), x)
            gain, a = per_sample(_gain(process, t), x), problem.operator

            def spread(w: Array) -> Array:
                return gain * pull_back(to_batch(a.adjoint(w), jnp.zeros_like(x0)))[0]

            def matrix(w: Array) -> Array:
                return a(to_images(problem, spread(w))) + jnp.asarray(problem.noise_std) ** 2 * w

            short = -residual(problem, to_images(problem, x0))
            return x0 + spread(cg(matrix, short, n_steps=n_steps).x)

        return refined

    return transform


def _corrected(problem: LinearProblem, damping: Callable[[Array], Array], n_steps: int) -> DenoiseTransform:
    """``x0_hat`` moved to the damped solution, the network not differentiated."""

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def refined(x: Array, t: Array, cond: Cond | None = None) -> Array:
            x0 = denoise(x, t, cond)
            images = to_images(problem, x0)
            return to_batch(images + _correction(problem, images, damping(t), n_steps), x0)

        return refined

    return transform


def _correction(
    problem: LinearProblem, images: Shaped[Array, "h w n"], damping: Float[Array, "b"], n_steps: int
) -> Shaped[Array, "h w n"]:
    """``(A^H A + damping)^{-1} A^H (y - A images)``, the damping by slice; without it by CGLS from zero."""
    short = LinearProblem(problem.operator, -residual(problem, images))
    each = jnp.repeat(damping, max(1, images.shape[2] // damping.shape[0]))[: images.shape[2]]
    b = problem.operator.adjoint(short.y)
    return cg(lambda v: problem.operator.normal(v) + each * v, b, n_steps=n_steps).x


def _damping(
    problem: LinearProblem, variance: Variance, process: GaussianProcess
) -> Callable[[Array], Array]:
    """``noise_std^2 / r^2`` at the times of a batch."""
    return lambda t: jnp.asarray(problem.noise_std) ** 2 / variance(process, t)


def _shrunk(prior_std: Scalar) -> Variance:
    def variance(process: GaussianProcess, t: Array) -> Array:
        ratio2 = _ratio2(process, t)
        return prior_std**2 * ratio2 / (prior_std**2 + ratio2)

    return variance


def _ratio2(process: GaussianProcess, t: Array) -> Array:
    return (process.sigma(t) / process.alpha(t)) ** 2


def _gain(process: GaussianProcess, t: Array) -> Array:
    """``sigma^2 / alpha``, by which a score becomes a move of x0_hat."""
    return process.sigma(t) ** 2 / process.alpha(t)
