"""Generator and discriminator from a configuration, as the two functions that the method knows."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks, convert
from diffax.models import NCSNpp, PairDiscriminator, Perceptron, StyledNCSNpp
from diffax.processes import FromTable
from diffax.types import Cond, Params
from experiments import build
from experiments.ddgan.method import Discriminate, Generate, chain

PREDICTIONS = ("x0", "eps", "x_s")


class Networks(NamedTuple):
    """``init(key) -> (generator's, discriminator's parameters)`` and their functions."""

    init: Callable[[Key[Array, ""]], tuple[Params, Params]]
    generate: Generate
    discriminate: Discriminate


def make_networks(config: ConfigDict, shape: tuple[int, ...]) -> Networks:
    """Perceptrons of points, or of all an image's pixels in a row; or convolutional networks of images.

    The generator's output goes through tanh under ``config.bounded``; what it stands for is
    ``config.prediction``: "x0", "eps" (converted to x0 here) or "x_s" (the next point of the chain itself).
    """
    checks.require_one_of("config.prediction", config.prediction, PREDICTIONS)
    bounded = not config.bounded or config.prediction != "eps"
    checks.require(bounded, "config.bounded", config.bounded, "False where prediction is 'eps'")
    make = _perceptrons if config.generator.name == "Perceptron" else _convolutions
    init, raw, discriminate = make(config, shape)
    process = chain(config.steps)

    def generate(params: Params, x: Array, t: Array, cond: Cond | None) -> Array:
        out = raw(params, x, t, cond)
        out = jnp.tanh(out) if config.bounded else out
        return _to_x0(process, out, x, t) if config.prediction == "eps" else out

    return Networks(init, generate, discriminate)


def _to_x0(process: FromTable, eps: Array, x: Array, t: Array) -> Array:
    return convert(process, eps, x, t, source="eps", target="x0")


def _perceptrons(config: ConfigDict, shape: tuple[int, ...]) -> tuple[Any, Generate, Discriminate]:
    size = math.prod(shape)
    generator = _make(Perceptron, "generator", config, out_features=size)
    discriminator = _make(Perceptron, "discriminator", config, out_features=1)

    def which(t: Array) -> Array:
        """One of T steps."""
        return jax.nn.one_hot(jnp.round(t * config.steps).astype(jnp.int32) - 1, config.steps)

    def generate(params: Params, x: Array, t: Array, cond: Cond | None) -> Array:
        latent = [] if cond is None else [cond["z"]]
        return generator.apply({"params": params}, x.reshape(-1, size), which(t), *latent).reshape(x.shape)

    def discriminate(params: Params, x_s: Array, t: Array, x_t: Array) -> Array:
        pair = (x_s.reshape(-1, size), which(t), x_t.reshape(-1, size))
        return discriminator.apply({"params": params}, *pair)[:, 0]

    def init(key: Key[Array, ""]) -> tuple[Params, Params]:
        keys = jax.random.split(key)
        x, step = jnp.zeros((1, size)), jnp.zeros((1, config.steps))
        latent = [jnp.zeros((1, config.latent))] if config.latent else []
        return (
            generator.init(keys[0], x, step, *latent)["params"],
            discriminator.init(keys[1], x, step, x)["params"],
        )

    return init, generate, discriminate


def _convolutions(config: ConfigDict, shape: tuple[int, ...]) -> tuple[Any, Generate, Discriminate]:
    generator = _make(StyledNCSNpp if config.latent else NCSNpp, "generator", config)
    discriminator = _make(PairDiscriminator, "discriminator", config)

    def generate(params: Params, x: Array, t: Array, cond: Cond | None) -> Array:
        return generator.apply({"params": params}, x, t, cond)

    def discriminate(params: Params, x_s: Array, t: Array, x_t: Array) -> Array:
        return discriminator.apply({"params": params}, x_s, t, x_t)

    def init(key: Key[Array, ""]) -> tuple[Params, Params]:
        keys, x, t = jax.random.split(key), jnp.zeros((1, *shape)), jnp.ones(1)
        cond = {"z": jnp.ones((1, config.latent))} if config.latent else None
        return (
            generator.init(keys[0], x, t, cond)["params"],
            discriminator.init(keys[1], x, t, x)["params"],
        )

    return init, generate, discriminate


def _make(module: Callable[..., nn.Module], where: str, config: ConfigDict, **more: Any) -> Any:
    """A network from ``config.WHERE``, whose name must be that of the data's kind of network."""
    found, name = config[where].name, module.__name__
    allowed = f"{name.removeprefix('Styled')}, for this data"
    checks.require(name.endswith(found), f"config.{where}.name", found, allowed)
    return build.make_module(module, where, config[where], **more)
