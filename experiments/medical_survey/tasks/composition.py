"""Composition: a configuration that names a task becomes an experiment."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.models import TENSOR_RULES
from diffax.training import TrainState, distributed, ema, init_net, make_optimizer, make_train_step
from diffax.training.step import Batch
from experiments import build
from experiments.base import Experiment
from experiments.medical_survey.tasks.base import Networks, Task
from experiments.medical_survey.tasks.cases import open_cases
from experiments.together import together

TASKS = (
    "anomaly_detection",
    "classification",
    "denoising",
    "generation",
    "reconstruction",
    "registration",
    "segmentation",
    "text_conditioned_generation",
    "translation",
)


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    task = make_task(config)
    cases = open_cases(config, task.needs)
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
    averages = {name: ema.parse(name) for name in config.train.ema}
    steps = {
        name: make_train_step(loss, optimizer, averages, net=name, accumulate=config.train.accumulate)
        for name, loss in task.losses.items()
    }

    def init(key: Key[Array, ""]) -> TrainState:
        init_key, run_key = jax.random.split(key)
        params = task.init(init_key)
        return TrainState.create(run_key, {k: init_net(p, optimizer, averages) for k, p in params.items()})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        return together(steps)(state, cases.prepare(batch))

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return task.evaluate(networks(config, state), workdir)

    return Experiment(
        init=init,
        train_step=train_step,
        data=cases.data,
        evaluate=evaluate,
        draw=lambda state, workdir: task.draw(networks(config, state), workdir),
        sharding_rules=TENSOR_RULES,
    )


def make_task(config: ConfigDict) -> Task:
    """The task that ``config.task`` names."""
    checks.require_one_of("config.task", config.task, TASKS)
    module = importlib.import_module(f"experiments.medical_survey.tasks.{config.task}")
    return module.make_task(config)


def networks(config: ConfigDict, state: TrainState) -> Networks:
    """The averaged parameters of every network, whole on this process."""
    return {k: distributed.gather(net.averaged(config.sample.ema)) for k, net in state.nets.items()}
