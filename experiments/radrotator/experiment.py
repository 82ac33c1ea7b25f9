"""Composition: a configuration becomes a state, a training step, an evaluation and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.models import TENSOR_RULES
from diffax.training import TrainState, ema, init_net, make_optimizer, make_train_step
from experiments import build
from experiments.base import Experiment, Init
from experiments.radrotator import evaluation, method, patients, student, views


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    if config.objective == "student":
        return student.make_experiment(config)
    model, process = build.make_model(config.model, 0), build.make_process(config.process)
    draw = views.make_draw(config, views.make_render(config))
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))
    method.make_rotate(config, model, process)
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
    averages = {name: ema.parse(name) for name in config.train.ema}

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return evaluation.evaluate(config, state, workdir)

    return Experiment(
        init=make_init(config, model),
        train_step=make_train_step(
            method.make_loss(config, model, process, draw),
            optimizer,
            averages,
            accumulate=config.train.accumulate,
        ),
        data=patients.make_data(config),
        evaluate=evaluate,
        draw=lambda state, workdir: evaluation.draw(config, state, workdir),
        sharding_rules=TENSOR_RULES,
    )


def make_init(config: ConfigDict, model: nn.Module) -> Init:
    """The state at step 0."""
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
    averages = {name: ema.parse(name) for name in config.train.ema}

    def init(key: Key[Array, ""]) -> TrainState:
        init_key, run_key = jax.random.split(key)
        net = init_net(method.init_params(config, model, init_key), optimizer, averages)
        return TrainState.create(run_key, {"model": net})

    return init
