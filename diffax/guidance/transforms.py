"""Guidance: functions from denoisers to denoisers.

All act on the estimate of x0. For a fixed (x, t) that is the same as acting on eps or the score, because
the three are affine in each other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffax import checks
from diffax.processes import GaussianProcess, marginal, per_sample
from diffax.types import Cond, DenoiseFn, DenoiseTransform, Scalar, Size

LogProbFn = Callable[[Array, Array, Cond | None], Array]


def classifier_free(
    scale: Scalar, *, null: Mapping[str, Array] | None = None, rescale: float = 0.0
) -> DenoiseTransform:
    r"""``x0 = u + scale (c - u)`` from the conditional c and unconditional u, in one batched network call.

    ``scale`` may be traced: one compilation serves all scales; 1 is plain conditional sampling, 0
    unconditional. The unconditional half is asked for by ``cond["unconditional"] = True``; samples that are
    marked so already stay unconditional at every scale. For models with another convention give the
    entries to replace in ``null`` (broadcast over the batch).
    ``rescale`` in [0, 1] restores the standard deviation of c. Ho & Salimans 2022 (arXiv:2207.12598), eq. 6;
    Lin et al. 2023 (arXiv:2305.08891), eq. 15-16.
    """
    checks.require_number("rescale", rescale, -1e-9, 1.0 + 1e-9, "a number in [0, 1]")

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def guided(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            both = denoise(_twice(x), _twice(t), _with_null(cond, null, x.shape[0]))
            conditional, unconditional = jnp.split(both, 2)
            mixed = unconditional + scale * (conditional - unconditional)
            return _restore_std(mixed, conditional, rescale) if rescale else mixed

        return guided

    return transform


def autoguidance(weak: DenoiseFn, scale: Scalar) -> DenoiseTransform:
    """``x0 = w + scale (d - w)`` with a weaker model's w. Karras et al. 2024 (arXiv:2406.02507), eq. 3."""

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def guided(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            base = weak(x, t, cond)
            return base + scale * (denoise(x, t, cond) - base)

        return guided

    return transform


def classifier(log_prob: LogProbFn, process: GaussianProcess, scale: Scalar = 1.0) -> DenoiseTransform:
    r"""``x0 += scale (sigma^2 / alpha) grad_x log p(y | x_t)``, the score's Bayes rule written for x0.

    ``log_prob(x, t, cond)`` returns one value per sample. Dhariwal & Nichol 2021
    (arXiv:2105.05233), section 4.
    """

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def guided(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            gradient = jax.grad(lambda x: jnp.sum(log_prob(x, t, cond)))(x)
            alpha, sigma, _ = marginal(process, t)
            return denoise(x, t, cond) + per_sample(scale * sigma**2 / alpha, x) * gradient

        return guided

    return transform


def interval(
    transform: DenoiseTransform, process: GaussianProcess, low: float, high: float
) -> DenoiseTransform:
    """Apply a transform only where ``low <= sigma / alpha <= high``; the plain denoiser elsewhere.

    Where the whole batch lies outside, the transform's calls are not made.
    Kynkaanniemi et al. 2024 (arXiv:2404.07724).
    """
    checks.require(low < high, "low, high", (low, high), "low < high")

    def limited(denoise: DenoiseFn) -> DenoiseFn:
        transformed = transform(denoise)

        def guided(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            level = process.sigma(t) / process.alpha(t)
            inside = (level >= low) & (level <= high)

            def mixed(x: Array) -> Array:
                return jax.lax.cond(jnp.all(inside), lambda x: transformed(x, t, cond), both, x)

            def both(x: Array) -> Array:
                return jnp.where(per_sample(inside, x), transformed(x, t, cond), denoise(x, t, cond))

            return jax.lax.cond(jnp.any(inside), mixed, lambda x: denoise(x, t, cond), x)

        return guided

    return limited


def compose(*transforms: DenoiseTransform) -> DenoiseTransform:
    """Apply transforms in order: the first is nearest to the network."""

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        for part in transforms:
            denoise = part(denoise)
        return denoise

    return transform


def _twice(x: Array) -> Array:
    return jnp.concatenate([x, x])


def _with_null(cond: Cond | None, null: Mapping[str, Array] | None, batch: Size) -> dict[str, Any]:
    """The condition followed by its unconditional version, as one batch."""
    checks.require(cond is not None, "cond", None, "a mapping, for classifier-free guidance")
    given = {name: value for name, value in dict(cond or {}).items() if name != "unconditional"}
    doubled = {name: jax.tree.map(_twice, value) for name, value in given.items()}
    if null is None:
        already = (cond or {}).get("unconditional", jnp.zeros(batch, bool))
        flags: Bool[Array, "2b"] = jnp.concatenate([already, jnp.ones(batch, bool)])
        return {**doubled, "unconditional": flags}
    for name, value in null.items():
        checks.require(name in given, "null", name, "names in cond: " + ", ".join(sorted(given)))
        empty = jnp.broadcast_to(value, given[name].shape).astype(given[name].dtype)
        doubled[name] = jnp.concatenate([given[name], empty])
    return doubled


def _restore_std(mixed: Array, reference: Array, amount: float) -> Array:
    axes = tuple(range(1, mixed.ndim))
    ratio = jnp.std(reference, axis=axes, keepdims=True) / jnp.std(mixed, axis=axes, keepdims=True)
    return mixed * (1.0 + amount * (ratio - 1.0))
