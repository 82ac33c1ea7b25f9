"""From a configuration to the discriminator, the weights and the noise levels: a :class:`Method`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.denoisers import precondition
from diffax.guidance import classifier_free
from diffax.losses import distribution_matching
from diffax.losses.divergences import divergence
from diffax.models import FeatureHeads, Perceptron, apply_keeping
from diffax.models.features import Features
from diffax.processes import EDM, GaussianProcess, grids, times
from diffax.types import ApplyFn, Cond, DenoiseFn, DenoiseTransform, Params
from experiments import build
from experiments.f_distill.method import Adversary, BaseWeight, Discriminate, Look, Method, Ratio
from experiments.f_distill.target import Target

WEIGHTS = ("inverse_error", "inverse_level")
InitHeads = Callable[[Key[Array, ""], Features], Params]


def make_method(config: ConfigDict, target: Target, discriminate: Discriminate) -> Method:
    """The parts that ``config`` names, around the target's networks."""
    low, high, ratio, gan = config.noise.low, config.noise.high, config.ratio, config.gan
    edges = distribution_matching.bin_edges(low, high, ratio.bins, spacing=ratio.spacing)
    checks.require(0 < ratio.low < ratio.high, "config.ratio", (ratio.low, ratio.high), "0 < low < high")
    return Method(
        process=target.process,
        teacher=guided(target.teacher, config.guidance, target.labelled, target.guide),
        score=target.score,
        discriminate=discriminate,
        divergence=divergence(config.divergence),
        base_weight=make_weight(config.weight),
        times=make_times(target.process, low, high),
        weighting=build.make_weighting(_scaled(config.fake_weighting, target.sigma_data)),
        grid=make_grid(target.process, config.student_levels),
        ratio=Ratio(ratio.bound, ratio.low, ratio.high, edges, ratio.decay),
        adversary=Adversary(gan.weight, gan.critic_weight, gan.features, gan.penalty, gan.gamma),
        field=target.field,
        condition=target.condition,
    )


def _scaled(weighting: ConfigDict, sigma_data: float) -> dict[str, Any]:
    """EDM's weighting is for data of one scale: by default the target's."""
    given = weighting.to_dict()
    return {"sigma_data": sigma_data, **given} if given["name"] == "edm" else given


def make_look(model: nn.Module, make_denoiser: Callable[[ApplyFn, Params], DenoiseFn]) -> Look:
    """A network as ``(params, x, t, cond) -> (x0, activations)``; a denoiser binds its raw output."""

    def look(params: Params, x: Array, t: Array, cond: Cond | None) -> tuple[Array, Features]:
        kept: dict[str, Any] = {}

        def apply_fn(params: Params, x: Array, time: Array, cond: Cond | None) -> Array:
            out, found = apply_keeping(model, params, x, time, cond)
            kept.update(found)
            return out

        return make_denoiser(apply_fn, params)(x, t, cond), kept

    return look


def guided(
    look: Look, scale: float, labelled: bool, guide: Callable[[float], DenoiseTransform] = classifier_free
) -> Look:
    """The same under classifier-free guidance, ``u + scale (c - u)``; activations are the conditional ones.

    Raises ``ValueError`` for a scale other than 1 where there are no conditions.
    """
    allowed = "1.0, for a teacher without classes or other conditions"
    checks.require(scale == 1.0 or labelled, "config.guidance", scale, allowed)
    if scale == 1.0:
        return look

    def both(params: Params, x: Array, t: Array, cond: Cond | None) -> tuple[Array, Features]:
        kept: dict[str, Array] = {}

        def denoise(x: Array, t: Array, cond: Cond | None) -> Array:
            x0, found = look(params, x, t, cond)
            kept.update(found)
            return x0

        x0 = guide(scale)(denoise)(x, t, cond)
        return x0, {name: leaf[: len(x)] for name, leaf in kept.items()}  # the conditional half comes first

    return both


def make_weight(config: ConfigDict) -> BaseWeight:
    """The factor w beside h, by its name."""
    checks.require_one_of("config.weight.name", config.name, WEIGHTS)
    if config.name == "inverse_level":
        return lambda x, teacher_x0, level: 1.0 / level
    return lambda x, teacher_x0, level: distribution_matching.inverse_error_weight(
        x, teacher_x0, floor=config.floor * level
    )


def make_times(process: GaussianProcess, low: float, high: float) -> times.TimeSampler:
    """Levels equally likely in ``level^(1/7)``: the inner 99.6 % of a grid of 1,000, as published."""
    levels = grids.karras(EDM(t_min=low, t_max=high), 999)[2:998]
    return times.discrete(times.of_level(process, levels))


def make_grid(process: GaussianProcess, levels: tuple[float, ...]) -> Array:
    """The student's times: those of its noise levels, then zero."""
    falls = all(a > b > 0 for a, b in zip(levels, (*levels[1:], 0.5 * levels[-1]), strict=True))
    checks.require(falls, "config.student_levels", tuple(levels), "falling positive numbers")
    grid = times.of_level(process, jnp.asarray(levels, jnp.float32))
    grid = jnp.clip(grid, min=process.t_min, max=process.t_max)
    return jnp.concatenate([grid, jnp.full((1,), process.t_zero, grid.dtype)])


def make_discriminator(config: ConfigDict, target: Target) -> tuple[InitHeads, Discriminate]:
    """Heads on activations, or a perceptron on x_t and its noise level."""
    make = _perceptron if config.gan.features == "input" else _heads
    return make(config, target)


def features_of(config: ConfigDict, target: Target, params: Params) -> Features:
    """Zeros shaped as the activations that the discriminator will see."""
    if config.gan.features == "input":
        return {}
    look = target.teacher if config.gan.features == "teacher" else target.score
    x, cond = jnp.zeros((1, *target.shape)), target.example
    if target.labelled and cond is None:
        cond = {"label": jnp.zeros(1, jnp.int32), "unconditional": jnp.zeros(1, bool)}
    t = jnp.full((1,), target.process.t_max, x.dtype)
    shapes = jax.eval_shape(lambda p: look(p, x, t, cond)[1], params)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _heads(config: ConfigDict, target: Target) -> tuple[InitHeads, Discriminate]:
    dtype = build.DTYPES.get(config.gan.dtype)
    checks.require_one_of("config.gan.dtype", config.gan.dtype, build.DTYPES)
    model, levels = FeatureHeads(config.gan.width, dtype), tuple(config.gan.levels)

    def chosen(features: Features) -> Features:
        allowed = "input, for a network that keeps no activations"
        checks.require(bool(features), "config.gan.features", config.gan.features, allowed)
        for name in levels:
            checks.require_one_of("config.gan.levels", name, sorted(features))
        return {name: features[name] for name in levels or features}

    def init(key: Key[Array, ""], features: Features) -> Params:
        return model.init(key, chosen(features))["params"]

    def discriminate(params: Params, x: Array, t: Array, features: Features) -> Array:
        return model.apply({"params": params}, chosen(features))

    return init, discriminate


def _perceptron(config: ConfigDict, target: Target) -> tuple[InitHeads, Discriminate]:
    size = math.prod(target.shape)
    model = Perceptron(1, width=config.gan.width or 128)

    def init(key: Key[Array, ""], features: Features) -> Params:
        return model.init(key, jnp.zeros((1, size)), jnp.zeros((1, 1)))["params"]

    def discriminate(params: Params, x: Array, t: Array, features: Features) -> Array:
        c = precondition(target.process, t, target.sigma_data)
        scaled = x.reshape(-1, size) * c.c_in[:, None]
        return model.apply({"params": params}, scaled, c.c_noise[:, None])

    return init, discriminate
