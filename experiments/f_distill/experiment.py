"""Composition: a configuration becomes networks, a training step, an evaluation and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.io import export_sampler, save_params
from diffax.training import TrainState, distributed, ema, init_net, make_optimizer
from diffax.training.step import TrainStep
from experiments import build
from experiments.base import Experiment, Init
from experiments.f_distill import images, points, sampling, swarm
from experiments.f_distill.method import Method, make_train_step
from experiments.f_distill.networks import features_of, make_discriminator, make_method
from experiments.f_distill.target import Start, Target

_DATA = 0x7FFFFFFD  # folded into a step's key for what is drawn on the device


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    if config.get("objective") == "particles":
        return swarm.make_experiment(config)
    return distil(config, *rebuild(config))


def distil(config: ConfigDict, target: Target, method: Method) -> Experiment:
    """A student of any target's teacher, as the configuration says."""
    optimizers = make_optimizers(config)
    averages = {name: ema.parse(name) for name in config.train.ema}
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))

    def from_start(start: Start) -> Init:
        return lambda key: make_state(config, target, optimizers, averages, start, key)

    def export(state: TrainState, workdir: Path) -> None:
        params = state.nets["student"].averaged(config.sample.ema)
        about = {"step": int(state.step), "ema": config.sample.ema, "divergence": config.divergence}
        save_params(workdir / "params.safetensors", params, {k: str(v) for k, v in about.items()})
        function = sampling.exportable(method, target.shape, target.labelled, distributed.gather(params))
        export_sampler(
            workdir / "sampler.jaxexport", function, metadata=about | {"nfe": len(method.grid) - 1}
        )

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return target.evaluate(method, state, workdir)

    def begin(workdir: Path) -> Init | None:
        start = target.begin(workdir) if target.begin else target.start
        return from_start(start) if start else None

    return Experiment(
        init=from_start(target.start),
        train_step=prepared(target, make_train_step(method, optimizers, averages, config.critic_steps)),
        data=target.data,
        evaluate=evaluate,
        draw=lambda state, workdir: target.draw(method, state, workdir),
        export=export,
        begin=begin,
        sharding_rules=target.rules,
    )


def rebuild(config: ConfigDict) -> tuple[Target, Method]:
    """What a run distils and how, for programs that use a trained one."""
    check_noise(config)
    target = (points if config.data.source == "ring" else images).make_target(config)
    return target, method_of(config, target)


def method_of(config: ConfigDict, target: Target) -> Method:
    """The method around a target's networks."""
    check_noise(config)
    _, discriminate = make_discriminator(config, target)
    return make_method(config, target, discriminate)


def check_noise(config: ConfigDict) -> None:
    """``ValueError`` for noise levels that cannot be, before anything is made of them."""
    low, high = config.noise.low, config.noise.high
    checks.require(0 < low < high, "config.noise", (low, high), "0 < low < high")


def prepared(target: Target, train_step: TrainStep) -> TrainStep:
    """A step on what the target makes of each batch."""
    if target.prepare is None:
        return train_step
    prepare = target.prepare
    return lambda state, batch: train_step(state, prepare(batch, jax.random.fold_in(state.step_key(), _DATA)))


def make_state(
    config: ConfigDict,
    target: Target,
    optimizers: Mapping[str, Any],
    averages: Mapping[str, Any],
    start: Start,
    key: Key[Array, ""],
) -> TrainState:
    """Step 0: three copies of the teacher's parameters, a fresh discriminator, ratios of mean 1."""
    start_key, heads_key, run_key = jax.random.split(key, 3)
    params = start(start_key)
    init_heads, _ = make_discriminator(config, target)
    heads = init_heads(heads_key, features_of(config, target, params))
    means = {"ratio_means": jnp.ones(config.ratio.bins)}
    nets = {
        "student": init_net(jax.tree.map(jnp.copy, params), optimizers["student"], averages),
        "fake": init_net(jax.tree.map(jnp.copy, params), optimizers["fake"], {}),
        "discriminator": init_net(heads, optimizers["discriminator"], {}).replace(mutable=means),
    }
    return TrainState.create(run_key, nets, {"teacher": params})


def make_optimizers(config: ConfigDict) -> dict[str, Any]:
    """Adam for each network; the critics keep their rate, to follow a student that slows down."""
    settings, steps = config.train.optimizer, config.train.num_steps
    own = {"learning_rate": config.train.critic_rate, "schedule": "constant", "end_rate": 0.0}
    critic = build.make_optimizer_config(settings.to_dict() | own)
    return {
        "student": make_optimizer(build.make_optimizer_config(settings), steps),
        "fake": make_optimizer(critic, steps * config.critic_steps),
        "discriminator": make_optimizer(critic, steps * config.critic_steps),
    }
