"""Composition: a configuration of a policy becomes an experiment."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import checks, data
from diffax.data.episodes import NORMALISERS, Normaliser, Windows, fit_normaliser
from diffax.data.npz import read_arrays
from diffax.data.sentences import embed_sentences
from diffax.io.weights import read_tensors
from diffax.models import TENSOR_RULES, with_torchvision
from diffax.training import TrainState, distributed, ema, init_net, make_optimizer, make_train_step
from diffax.training.step import Batch
from diffax.types import Params
from experiments import build
from experiments.base import Experiment
from experiments.mode_policy import navigation_figures
from experiments.mode_policy.exporting import export_policy
from experiments.mode_policy.metaworld import open_metaworld
from experiments.mode_policy.method import Recipe, Trained, init_params, make_loss, make_recipes
from experiments.mode_policy.policy import about_of
from experiments.mode_policy.recorded import open_recorded
from experiments.mode_policy.suite import Facts, Suite, write_facts
from experiments.together import together

SUITES = {
    "navigation": navigation_figures.open_navigation,
    "metaworld": open_metaworld,
    "recorded": open_recorded,
}
GOALS = ("one_hot", "sentence", "none")


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    suite = open_suite(config)
    recipes = rebuild(config, suite.facts)
    check_image_weights(config)
    for name in ("state", "action"):
        checks.require_one_of(f"config.normaliser.{name}", config.normaliser[name], NORMALISERS)
    optimizer = make_own_optimizer(config)
    averages = make_averages(config)
    options = {"accumulate": config.train.accumulate}
    step = together(
        {
            name: make_train_step(make_loss(config, recipe), optimizer, averages, net=name, **options)
            for name, recipe in recipes.items()
        }
    )

    @functools.cache  # demonstrations are read, or made, when training asks for them
    def windows() -> Windows:
        return Windows(suite.demonstrations(), config.data.horizon, config.data.history)

    init = make_init(config, suite.facts, recipes)

    def begin(workdir: Path) -> Any:
        steps = windows().episodes.steps
        fitted = {k: fit_normaliser(steps[k], config.normaliser[k]) for k in ("state", "action")}
        if distributed.is_main():
            write_facts(workdir, suite.facts)
        return functools.partial(init, fitted=fitted)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        known = state.frozen["normalisers"]
        return step(state, {**batch, **{name: norm(batch[name]) for name, norm in known.items()}})

    def rows(index: int, count: int) -> data.Pipeline:
        size, shifts = build.shard_rows(config, count), make_shifts(config)
        options = {"augment": shifts, "shard_index": index, "shard_count": count}
        return data.pipeline(windows(), size, config.seed, **options)

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return suite.evaluate(trained(config, recipes, state), workdir)

    def draw(state: TrainState, workdir: Path) -> None:
        suite.draw(trained(config, recipes, state), workdir)

    def export(state: TrainState, workdir: Path) -> None:
        export_policy(trained(config, recipes, state), about_of(config, suite.facts), workdir)

    options = {"begin": begin, "sharding_rules": TENSOR_RULES}
    return Experiment(init, train_step, rows, evaluate, draw, export, **options)


def make_own_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of every network."""
    return make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)


def make_averages(config: ConfigDict) -> dict[str, ema.EmaSchedule]:
    """The averages of every network."""
    return {name: ema.parse(name) for name in config.train.ema}


def make_init(config: ConfigDict, facts: Facts, recipes: Mapping[str, Recipe]) -> Callable[..., TrainState]:
    """``init(key, fitted)``: the state at step 0, of shapes alone where no normalisers are given."""
    optimizer, averages = make_own_optimizer(config), make_averages(config)

    def init(key: Key[Array, ""], fitted: Mapping[str, Normaliser] | None = None) -> TrainState:
        init_key, run_key = jax.random.split(key)
        example = example_batch(config, facts)
        params = {name: init_params(recipe, example, init_key) for name, recipe in recipes.items()}
        if fitted and config.image_weights:
            params = with_image_weights(config, params)
        nets = {name: init_net(p, optimizer, averages) for name, p in params.items()}
        known = fitted or {k: Normaliser(*[jnp.zeros(example[k].shape[-1])] * 2) for k in ("state", "action")}
        return TrainState.create(run_key, nets, {"normalisers": jax.tree.map(jnp.asarray, known)})

    return init


def open_suite(config: ConfigDict) -> Suite:
    """The suite that ``config.suite`` names."""
    checks.require_one_of("config.suite", config.suite, SUITES)
    return SUITES[config.suite](config)


def rebuild(config: ConfigDict, facts: Facts) -> dict[str, Recipe]:
    """Every policy of a configuration, without weights."""
    checks.require(config.data.horizon >= 1, "config.data.horizon", config.data.horizon, "an integer >= 1")
    checks.require(config.data.history >= 1, "config.data.history", config.data.history, "an integer >= 1")
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))
    return make_recipes(config, make_goals(config, facts), facts.widths[1])


def make_shifts(config: ConfigDict) -> list[data.Augmentation]:
    """Of images, by ``config.data.shift`` pixels at most, each camera's by itself."""
    shift = config.data.shift
    return [data.random_shift(shift, (name,)) for name in config.data.images] if shift else []


def check_image_weights(config: ConfigDict) -> None:
    """Raise ``ValueError`` where there is no place for the weights of ``config.image_weights``."""
    if config.image_weights:
        cameras, norm = tuple(config.data.images), config.model.image_norm
        checks.require(bool(cameras), "config.data.images", cameras, "cameras, with config.image_weights")
        checks.require(norm == "frozen", "config.model.image_norm", norm, "frozen, with config.image_weights")


def with_image_weights(config: ConfigDict, params: Mapping[str, Params]) -> dict[str, Params]:
    """Every network's parameters with torchvision's of a file in all cameras' encoders."""
    tensors, _ = read_tensors(config.image_weights)

    def fill(net: Params) -> Params:
        cameras = {name: with_torchvision(value, tensors) for name, value in net["cameras"].items()}
        return {**net, "cameras": cameras}

    return {name: fill(net) for name, net in params.items()}


def example_batch(config: ConfigDict, facts: Facts) -> Batch:
    """One window of zeros."""
    state, action = facts.widths
    history = config.data.history
    images = {name: np.zeros((1, history, *shape), np.uint8) for name, shape in facts.images.items()}
    return {
        **images,
        "state": np.zeros((1, history, state), np.float32),
        "action": np.zeros((1, config.data.horizon, action), np.float32),
        "mask": np.ones((1, config.data.horizon), np.float32),
        "task": np.zeros(1, np.int32),
    }


def make_goals(config: ConfigDict, facts: Facts) -> Float[np.ndarray, "tasks g"] | None:
    """A vector for each task of the suite, by ``config.goal``: a name, or a file of vectors."""
    if str(config.goal).endswith(".npz"):
        return read_vectors(config.goal, facts.tasks)
    checks.require_one_of("config.goal", config.goal, (*GOALS, "a path that ends with .npz"))
    if config.goal == "none":
        return None
    if config.goal == "one_hot":
        return np.eye(len(facts.tasks), dtype=np.float32)
    return embed_sentences(facts.sentences)


def read_vectors(path: str, tasks: tuple[str, ...]) -> Float[np.ndarray, "tasks g"]:
    """A task's vector under its name, such as a text encoder's: finite, all of one length."""
    arrays = read_arrays(path)
    for task in tasks:
        checks.require(task in arrays, f"{path}: arrays", sorted(arrays)[:9], f"one named {task!r}")
        shape = arrays[task].shape
        same = len(shape) == 1 and shape == arrays[tasks[0]].shape
        checks.require(same, f"{path}: {task}: shape", shape, "a vector, of one length for all tasks")
        checks.require(bool(np.isfinite(arrays[task]).all()), f"{path}: {task}", "NaN", "finite numbers")
    return np.stack([arrays[task] for task in tasks]).astype(np.float32)


def trained(config: ConfigDict, recipes: Mapping[str, Recipe], state: TrainState) -> Trained:
    """The averaged parameters of every policy and what normalises their inputs, whole on this process."""
    nets = {k: distributed.gather(net.averaged(config.sample.ema)) for k, net in state.nets.items()}
    kept = distributed.gather(state.frozen["normalisers"])
    return Trained(config, recipes, nets, {name: Normaliser(*values) for name, values in kept.items()})
