r"""Exact likelihoods by the instantaneous change of variables along the probability flow.

``log p(x) = log p_T(x_T) + int_{t_min}^{t_max} div u(x_t, t) dt`` with ``dx/dt = u``; the density is that
of the data with the noise of ``t_min``. Song et al. 2021 (arXiv:2011.13456), section D.2; Grathwohl et al.
2019 (arXiv:1810.01367).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from diffax import checks
from diffax.processes import GaussianProcess, prior_log_prob
from diffax.samplers.ode import integrate, velocity
from diffax.types import Cond, DenoiseFn, Keys


def log_likelihood(
    key: Key[Array, "*b"],
    denoise: DenoiseFn,
    process: GaussianProcess,
    x: Float[Array, "b ..."],
    *,
    cond: Cond | None = None,
    trace: str = "hutchinson",
    n_probes: int = 1,
    prior_mean: Float[ArrayLike, "..."] = 0.0,
    prior_var: Float[ArrayLike, "..."] = 0.0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
) -> Float[Array, "b"]:
    """``log p(x)`` in nats for each sample.

    Args:
      key: one key (sample i then uses ``fold_in(key, i)``) or one per sample; unused by the exact trace.
      trace: "exact" costs one derivative per dimension; "hutchinson" is an unbiased estimate of the
        divergence from ``n_probes`` Rademacher vectors, fixed along the path.
      prior_mean, prior_var: the data's, to correct the end point's distribution
        ``N(alpha mean, alpha^2 var + sigma^2)`` where alpha(t_max) is not small beside sigma(t_max).

    A sample whose ODE did not finish within ``max_steps`` is NaN.
    """
    checks.require_one_of("trace", trace, ("exact", "hutchinson"))
    checks.require(n_probes >= 1, "n_probes", n_probes, "an integer >= 1")
    directions = _probes(key, x, n_probes) if trace == "hutchinson" else _basis(x)

    def slope(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        def flow(x: Array) -> Array:
            return velocity(lambda x, t: denoise(x, t, cond), process, x, t)

        return _value_and_divergence(flow, state[0], directions, trace)

    start = (x, jnp.zeros(x.shape[0], x.dtype))
    solution = integrate(
        slope, start, process.t_min, process.t_max, rtol=rtol, atol=atol, max_steps=max_steps
    )
    x_end, volume = solution.y
    return prior_log_prob(process, x_end, prior_mean, prior_var) + volume


def bits_per_dim(
    key: Key[Array, ""],
    denoise: DenoiseFn,
    process: GaussianProcess,
    x: Float[Array, "b ..."],
    *,
    levels: int,
    cond: Cond | None = None,
    trace: str = "hutchinson",
    n_probes: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Float[Array, "b"]:
    """Bits per dimension of data quantised to ``levels`` equal steps of [-1, 1], by uniform dequantisation.

    ``x`` holds the values ``2 k / (levels - 1) - 1``. Noise uniform over one step, ``2 / (levels - 1)`` wide,
    is added, so that ``-log2 p(x + u) / d - log2(step)`` bounds the discrete code length from above (in
    expectation). Theis et al. 2016 (arXiv:1511.01844), section 3.1.
    """
    checks.require(levels >= 2, "levels", levels, "an integer >= 2")
    width = 2.0 / (levels - 1)
    noise_key, trace_key = jax.random.split(key)
    keys = _sample_keys(noise_key, x)
    shift = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -0.5, 0.5))(keys)
    nats = log_likelihood(
        trace_key, denoise, process, x + width * shift,
        cond=cond, trace=trace, n_probes=n_probes, rtol=rtol, atol=atol,
    )  # fmt: skip
    return -nats / (math.prod(x.shape[1:]) * math.log(2.0)) - math.log2(width)


def _value_and_divergence(
    flow: Callable[[Array], Array], x: Array, directions: Array, trace: str
) -> tuple[Array, Array]:
    """``u(x)`` and ``sum_v v . (du/dx) v`` (or its mean over probes), direction by direction."""
    value, push = jax.linearize(flow, x)

    def quadratic(v: Array) -> Array:
        return jnp.sum((v * push(jnp.broadcast_to(v, x.shape))).reshape(x.shape[0], -1), axis=1)

    terms = jax.lax.map(quadratic, directions, batch_size=min(16, directions.shape[0]))
    return value, jnp.sum(terms, axis=0) if trace == "exact" else jnp.mean(terms, axis=0)


def _basis(x: Array) -> Float[Array, "d 1 ..."]:
    size = math.prod(x.shape[1:])
    return jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])


def _probes(key: Array, x: Array, n: int) -> Float[Array, "n b ..."]:
    def one(key: Array) -> Array:
        return jax.random.rademacher(key, (n, *x.shape[1:]), x.dtype)

    return jnp.moveaxis(jax.vmap(one)(_sample_keys(key, x)), 1, 0)


def _sample_keys(key: Array, x: Array) -> Keys:
    """One key per sample, whichever was given."""
    if key.ndim == 1:
        return key
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(x.shape[0]))
