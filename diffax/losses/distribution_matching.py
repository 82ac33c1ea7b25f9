r"""Distribution matching: move what a generator draws along the difference of two scores.

With an estimate of x0 under the law p to be matched (a teacher's), one under the generator's own law q, and a
weight w per sample, both at the same noised point, a generator's output x follows

    loss = 1/2 mean |x - sg(x - g)|^2,   g = w (x0_q - x0_p),   d loss / dx = g / (number of elements)

``x0_q - x0_p = (sigma^2 / alpha) (score_q - score_p)``: a weight of the noise level alone descends the
reverse KL between the noised laws, averaged over levels, and a factor h(r) in it makes that any f-divergence
(:mod:`diffax.losses.divergences`). The ratio ``r = p / q`` is read off a discriminator's logits and
normalised in two stages: r by its mean in each bin of noise levels, then h by its mean. Means are over the
whole batch, which under jit is the global one however it lies on devices; of parts of a batch, as in
accumulated gradients or under shard_map, they are the part's own.

Sources: Wang et al. 2023 (arXiv:2305.16213), eq. 9; Yin et al. 2023 (arXiv:2311.18828), eq. 7 and 8; Xu, Nie,
Vahdat 2025 (arXiv:2502.15681) and the code released with it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffax import checks
from diffax.losses.adversarial import Discriminate
from diffax.losses.divergences import Divergence
from diffax.processes import per_sample
from diffax.types import Scalar

SPACINGS = ("uniform", "log")


class DivergenceWeight(NamedTuple):
    """Per sample the weight h (mean 1) and the normalised ratio; the means per bin, to be passed on."""

    weight: Float[Array, "b"]
    ratio: Float[Array, "b"]
    means: Float[Array, "bins"]


def density_ratio(
    logits: Float[Array, "b *heads"], *, bound: float = 10.0, low: float = 0.1, high: float = 20.0
) -> Float[Array, "b"]:
    """``r = p / q = exp(logit)`` per sample: above 1 where the discriminator takes a sample for real.

    That is the sign of ``adversarial.discriminator_loss(real, drawn)``, whose minimum is at ``log(p / q)``, p
    the law of ``real``. Logits of several heads are averaged, clamped to [-bound, bound], and r is clipped to
    [low, high], all in float32 or better whatever comes in. No gradient passes.

    Raises:
      ValueError: unless bound > 0 and 0 < low < high.
    """
    checks.require(bound > 0, "bound", bound, "a positive number")
    checks.require(0 < low < high, "low, high", (low, high), "0 < low < high")
    values = _constant(logits).reshape(logits.shape[0], -1)
    log_ratio = jnp.clip(jnp.mean(values, axis=1), min=-bound, max=bound)
    return jnp.clip(jnp.exp(log_ratio), min=low, max=high)


def bin_edges(low: float, high: float, bins: int = 10, *, spacing: str = "uniform") -> Float[Array, "edges"]:
    """``bins + 1`` edges of noise levels from low to high, equally spaced in sigma or in log sigma.

    Noise levels spread evenly over many octaves fall for the most part into the first bin of a "uniform"
    spacing, the published one; "log" fills them alike. Any increasing edges may be used instead.

    Raises:
      ValueError: for bins < 1, an unknown spacing, or unless low < high (and 0 < low for "log").
    """
    checks.require(bins >= 1, "bins", bins, "an integer >= 1")
    checks.require_one_of("spacing", spacing, SPACINGS)
    checks.require(low < high, "low, high", (low, high), "low < high")
    checks.require(spacing == "uniform" or low > 0, "low", low, "a positive number, for spacing 'log'")
    space = np.linspace if spacing == "uniform" else np.geomspace
    return jnp.asarray(space(low, high, bins + 1), jnp.float32)


def normalise_ratio(
    ratio: Float[Array, "b"],
    level: Float[Array, "b"],
    edges: Float[Array, "edges"],
    means: Float[Array, "bins"] | None = None,
    *,
    decay: Scalar = 0.0,
) -> tuple[Float[Array, "b"], Float[Array, "bins"]]:
    """Divide each ratio by the mean ratio in its bin of noise levels; return the means too.

    ``means <- decay means + (1 - decay) mean_{i in bin} r_i`` where a bin holds samples, unchanged where it
    holds none. ``means`` starts at ones (None); a decay above 0 averages over batches, where the caller keeps
    the returned means. Bin k is [edges[k], edges[k + 1]); levels outside belong to the bin at that end.
    """
    checks.require(edges.shape[0] >= 2, "edges", edges.shape, "two or more")
    if checks.is_concrete(decay):
        checks.require(bool(0 <= decay < 1), "decay", decay, "[0, 1)")
    ratio, level = _constant(ratio), _constant(level)
    before = jnp.ones(edges.shape[0] - 1, ratio.dtype) if means is None else _constant(means)
    allowed = f"shape {(edges.shape[0] - 1,)}, one per bin"
    checks.require(before.shape[0] == edges.shape[0] - 1, "means", before.shape, allowed)
    index = jnp.searchsorted(edges[1:-1], level, side="right")
    total = jnp.zeros_like(before).at[index].add(ratio)
    count = jnp.zeros_like(before).at[index].add(1.0)
    current = total / jnp.maximum(count, 1.0)
    after = jnp.where(count > 0, before + (1.0 - decay) * (current - before), before)
    return _over(ratio, after[index]), after


def normalise_weight(weight: Float[Array, "b"]) -> Float[Array, "b"]:
    """Divide by the mean of the batch: a constant factor in f, of any size, drops out. No gradient passes."""
    weight = _constant(weight)
    return _over(weight, jnp.mean(weight))


def divergence_weight(
    divergence: Divergence,
    ratio: Float[Array, "b"],
    level: Float[Array, "b"],
    edges: Float[Array, "edges"],
    means: Float[Array, "bins"] | None = None,
    *,
    decay: Scalar = 0.0,
) -> DivergenceWeight:
    """Both stages of the normalisation: ``h(r / mean_bin r)`` divided by its mean over the batch.

    ``ratio`` comes from ``density_ratio``, ``level`` is each sample's sigma, ``edges`` from ``bin_edges``;
    ``means`` and ``decay`` are those of ``normalise_ratio``. Weights are constants of the loss.
    """
    normalised, means = normalise_ratio(ratio, level, edges, means, decay=decay)
    return DivergenceWeight(normalise_weight(divergence.h(normalised)), normalised, means)


def inverse_error_weight(
    x: Float[Array, "b ..."], teacher_x0: Float[Array, "b ..."], *, floor: Scalar | Float[Array, "b"] = 0.0
) -> Float[Array, "b"]:
    """``w = 1 / (max(mean |x - x0_p|, floor) + 1e-6)``, the mean over a sample's elements.

    It evens out gradients over noise levels. With few elements the error can come near 0 by chance, and the
    sample is thrown far out: for points in the plane give a ``floor`` (one number, or one per sample such as
    its sigma), or use ``1 / sigma`` instead. Yin et al. 2023 (arXiv:2311.18828), eq. 8. No gradient passes.
    """
    error = jnp.mean(jnp.abs(_constant(x) - _constant(teacher_x0)).reshape(x.shape[0], -1), axis=1)
    return 1.0 / (jnp.maximum(error, jax.lax.stop_gradient(floor)) + 1e-6)


def matching_direction(
    teacher_x0: Float[Array, "b ..."], own_x0: Float[Array, "b ..."], weight: Float[Array, "b"]
) -> Float[Array, "b ..."]:
    """``g = w (x0_q - x0_p)``: a generator's output descends along -g. No gradient passes."""
    difference = _constant(own_x0) - _constant(teacher_x0)
    return per_sample(_constant(weight), difference) * difference


def matching_loss(
    x: Float[Array, "b ..."],
    teacher_x0: Float[Array, "b ..."],
    own_x0: Float[Array, "b ..."],
    weight: Float[Array, "b"],
) -> Float[Array, ""]:
    """A loss whose gradient in x is ``g / x.size``, and whose value is ``mean g^2 / 2``.

    The gradient reaches x alone: neither of the estimates nor the weight, whatever they depend on. x is
    the generator's output before noise. Written ``|x - sg(x) + sg(g)|^2``, which is the ``|x - sg(x - g)|^2``
    of the paper without its rounding, of the size of x's last digit.
    """
    offset = x - jax.lax.stop_gradient(x) + matching_direction(teacher_x0, own_x0, weight)
    return 0.5 * jnp.mean(jnp.square(offset))


def approximate_r1(
    key: Key[Array, ""], discriminate: Discriminate, x: Float[Array, "b ..."], *, scale: Scalar = 0.1
) -> Float[Array, ""]:
    """``mean_b (D(x) - D(x + scale n))^2 / scale^2``, n ~ N(0, I): no derivative inside the loss.

    Its expectation tends to ``adversarial.r1_penalty`` as scale -> 0 and equals it for a linear D, so gamma
    means the same for both; published weights on the undivided square are ``scale^2`` times larger. D is
    called once on x and once on its neighbour. Lin et al. 2025 (arXiv:2501.08316).
    """
    checks.require_number("scale", scale, 0.0, np.inf, "a positive number")
    neighbour = x + jnp.asarray(scale, x.dtype) * jax.random.normal(key, x.shape, x.dtype)
    here, there = discriminate(x), discriminate(neighbour)
    difference = here.astype(_precise(here)) - there.astype(_precise(there))
    return jnp.mean(jnp.square(difference / scale))


def _precise(x: Array) -> jnp.dtype:
    """float32 for every narrower type: a ratio or a difference of neighbours loses its digits in bfloat16."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _constant(x: Array) -> Array:
    return jax.lax.stop_gradient(x).astype(_precise(x))


def _over(x: Array, mean: Array) -> Array:
    """``x / mean`` of numbers >= 0, and 0 where all of them are."""
    return x / jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
