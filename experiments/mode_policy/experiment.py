"""Composition: a configuration of a policy becomes an experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import checks, data
from diffax.data.episodes import Normaliser, Windows, fit_normaliser
from diffax.data.sentences import embed_sentences
from diffax.models import TENSOR_RULES
from diffax.training import TrainState, distributed, ema, init_net, make_optimizer, make_train_step
from diffax.training.step import Batch
from experiments import build
from experiments.base import Experiment
from experiments.mode_policy import navigation, navigation_figures
from experiments.mode_policy.method import Normalisers, init_params, make_loss, make_policies
from experiments.together import together

GOALS = ("one_hot", "sentence", "none")


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    checks.require_one_of("config.suite", config.suite, ("navigation",))
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))
    episodes = navigation.demonstrations(config.seed, config.data.per_task, config.data.spread)
    windows = Windows(episodes, config.data.horizon, config.data.history)
    fitted = {k: fit_normaliser(episodes.steps[k], config.normaliser[k]) for k in ("state", "action")}
    policies = make_policies(config, make_goals(config), episodes.steps["action"].shape[1])
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
    averages = {name: ema.parse(name) for name in config.train.ema}
    accumulate = config.train.accumulate
    step = together(
        {
            name: make_train_step(
                make_loss(config, policy), optimizer, averages, net=name, accumulate=accumulate
            )
            for name, policy in policies.items()
        }
    )

    def init(key: Key[Array, ""]) -> TrainState:
        init_key, run_key = jax.random.split(key)
        example = {name: value[None] for name, value in windows[0].items()}
        params = {name: init_params(policy, example, init_key) for name, policy in policies.items()}
        nets = {name: init_net(p, optimizer, averages) for name, p in params.items()}
        return TrainState.create(run_key, nets, {"normalisers": jax.tree.map(jnp.asarray, fitted)})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        return step(state, {**batch, **{name: norm(batch[name]) for name, norm in fitted.items()}})

    def rows(index: int, count: int) -> data.Pipeline:
        size = build.shard_rows(config, count)
        return data.pipeline(windows, size, config.seed, shard_index=index, shard_count=count)

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return navigation_figures.evaluate(config, policies, *weights(config, state), workdir)

    def draw(state: TrainState, workdir: Path) -> None:
        navigation_figures.draw(config, policies, *weights(config, state), workdir)

    return Experiment(init, train_step, rows, evaluate, draw, sharding_rules=TENSOR_RULES)


def make_goals(config: ConfigDict) -> Float[np.ndarray, "tasks g"] | None:
    """A vector for each task of the suite, by ``config.goal``."""
    checks.require_one_of("config.goal", config.goal, GOALS)
    if config.goal == "none":
        return None
    tasks = range(navigation.TASKS)
    if config.goal == "one_hot":
        return np.eye(len(tasks), dtype=np.float32)
    return embed_sentences([navigation.sentence(task) for task in tasks])


def weights(config: ConfigDict, state: TrainState) -> tuple[dict[str, Any], Normalisers]:
    """The averaged parameters of every policy and what normalises their inputs, whole on this process."""
    nets = {k: distributed.gather(net.averaged(config.sample.ema)) for k, net in state.nets.items()}
    kept = distributed.gather(state.frozen["normalisers"])
    return nets, {name: Normaliser(*values) for name, values in kept.items()}
