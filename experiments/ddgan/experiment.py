"""Composition: a configuration becomes networks, a training step, an evaluation and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.io import export_sampler, save_params
from diffax.training import TrainState, distributed, ema, init_net, make_optimizer
from experiments import build
from experiments.base import Experiment
from experiments.ddgan import images, method, points, sampling
from experiments.ddgan.networks import Networks, make_networks
from experiments.ddgan.target import Target


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    target = make_target(config)
    networks = make_networks(config, target.shape)
    made = make_method(config, networks, target.field)
    optimizers = make_optimizers(config)
    averages = {name: ema.parse(name) for name in config.train.ema}
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))

    def init(key: Key[jax.Array, ""]) -> TrainState:
        init_key, run_key = jax.random.split(key)
        generator, discriminator = networks.init(init_key)
        nets = {
            "generator": init_net(generator, optimizers["generator"], averages),
            "discriminator": init_net(discriminator, optimizers["discriminator"], {}),
        }
        return TrainState.create(run_key, nets)

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return target.evaluate(made, state.nets["generator"].averaged(config.sample.ema), workdir)

    def draw(state: TrainState, workdir: Path) -> None:
        target.draw(made, state.nets["generator"].averaged(config.sample.ema), int(state.step), workdir)

    def export(state: TrainState, workdir: Path) -> None:
        params = state.nets["generator"].averaged(config.sample.ema)
        about = {"step": int(state.step), "ema": config.sample.ema, "steps": config.steps}
        save_params(workdir / "params.safetensors", params, {k: str(v) for k, v in about.items()})
        function = sampling.exportable(made, target.shape, distributed.gather(params))
        export_sampler(workdir / "sampler.jaxexport", function, metadata=about)

    return Experiment(
        init=init,
        train_step=method.make_train_step(made, optimizers, averages),
        data=target.data,
        evaluate=evaluate,
        draw=draw,
        export=export,
        sharding_rules=target.rules,
    )


def rebuild(config: ConfigDict) -> tuple[method.Method, tuple[int, ...]]:
    """The method of a run and the shape of its samples, for programs that use a trained one."""
    target = make_target(config)
    return make_method(config, make_networks(config, target.shape), target.field), target.shape


def make_target(config: ConfigDict) -> Target:
    """Points in the plane, or images."""
    return (points if config.data.source == "gaussians" else images).make_target(config)


def make_optimizers(config: ConfigDict) -> dict[str, Any]:
    """Adam for both networks, at their own rates."""
    settings, rate = config.train.optimizer, config.train.discriminator_rate
    other = settings.to_dict() | ({"learning_rate": rate} if rate else {})
    return {
        "generator": make_optimizer(build.make_optimizer_config(settings), config.train.num_steps),
        "discriminator": make_optimizer(build.make_optimizer_config(other), config.train.num_steps),
    }


def make_method(config: ConfigDict, networks: Networks, field: str) -> method.Method:
    """The networks' functions and the method's settings."""
    r1 = config.r1
    return method.Method(
        networks.generate,
        networks.discriminate,
        config.steps,
        config.latent,
        r1.gamma,
        r1.lazy,
        r1.rescale,
        config.objective,
        config.prediction == "x_s",
        field,
    )
