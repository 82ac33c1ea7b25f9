"""Composition: a configuration becomes networks, a training step, an evaluation and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.data import Mixture, MixtureStream
from diffax.data import grid as gaussians
from diffax.models import Perceptron
from diffax.training import DataIterator, TrainState, ema, init_net, make_optimizer
from diffax.types import Cond, Params
from experiments import build
from experiments.base import Experiment
from experiments.ddgan import evaluation, method


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    mixture = make_mixture(config)
    made = make_method(config)
    optimizers = {
        name: make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
        for name in ("generator", "discriminator")
    }
    averages = {name: ema.parse(name) for name in config.train.ema}
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))

    def init(key: Key[Array, ""]) -> TrainState:
        keys = jax.random.split(key, 3)
        x, step = jnp.zeros((1, 2)), jnp.zeros((1, config.steps))
        z = [jnp.zeros((1, config.latent))] if config.latent else []
        generator = networks(config)[0].init(keys[0], x, step, *z)["params"]
        discriminator = networks(config)[1].init(keys[1], x, step, x)["params"]
        nets = {
            "generator": init_net(generator, optimizers["generator"], averages),
            "discriminator": init_net(discriminator, optimizers["discriminator"], {}),
        }
        return TrainState.create(keys[2], nets)

    def data(index: int, count: int) -> DataIterator:
        size = config.train.batch_size
        checks.require(size % count == 0, "config.train.batch_size", size, f"a multiple of {count} processes")
        return MixtureStream(mixture, size // count, config.seed, shard_index=index, shard_count=count)

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return evaluation.evaluate(config, made, mixture, averaged(state, config.sample.ema), workdir)

    def draw(state: TrainState, workdir: Path) -> None:
        evaluation.draw(config, made, mixture, averaged(state, config.sample.ema), workdir)

    return Experiment(
        init=init,
        train_step=method.make_train_step(made, optimizers, averages),
        data=data,
        evaluate=evaluate,
        draw=draw,
    )


def make_mixture(config: ConfigDict) -> Mixture:
    """The grid of Gaussians, divided by the root mean square coordinate of its centres."""
    mixture = gaussians(config.data.side, 2.0, config.data.std)
    scale = jnp.sqrt(jnp.mean(mixture.means**2))
    return Mixture(mixture.weights, mixture.means / scale, mixture.covs / scale**2)


def networks(config: ConfigDict) -> tuple[Perceptron, Perceptron]:
    """Generator and discriminator."""
    return Perceptron(2, **config.generator), Perceptron(1, **config.discriminator)


def make_method(config: ConfigDict) -> method.Method:
    """The networks' functions and the method's settings."""
    generator, discriminator = networks(config)

    def which(t: Array) -> Array:
        return jax.nn.one_hot(jnp.round(t * config.steps).astype(jnp.int32) - 1, config.steps)

    def generate(params: Params, x: Array, t: Array, cond: Cond | None) -> Array:
        latent = [] if cond is None else [cond["z"]]
        return generator.apply({"params": params}, x, which(t), *latent)

    def discriminate(params: Params, x_s: Array, t: Array, x_t: Array) -> Array:
        return discriminator.apply({"params": params}, x_s, which(t), x_t)[:, 0]

    r1 = config.r1
    return method.Method(
        generate, discriminate, config.steps, config.latent, r1.gamma, r1.lazy, r1.rescale, config.objective
    )


def averaged(state: TrainState, name: str) -> Params:
    """The generator's parameters to sample with: a moving average by name, or ("") the raw ones."""
    net = state.nets["generator"]
    return net.ema[name] if name else net.params
