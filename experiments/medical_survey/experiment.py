"""Composition: a configuration becomes a state, a training step, an evaluation and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks, data
from diffax.io import export_sampler, save_params, write_samples
from diffax.models import TENSOR_RULES
from diffax.processes import GaussianProcess
from diffax.training import (
    TrainState,
    distributed,
    ema,
    init_net,
    make_optimizer,
    make_train_step,
    mesh_of,
    place,
    replicated,
)
from diffax.training.loop import Validate
from diffax.types import Params
from experiments import build
from experiments.base import Experiment, Init
from experiments.medical_survey import evaluation, method
from experiments.medical_survey.tasks import composition
from experiments.progress import Counted


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    if config.get("task"):
        return composition.make_experiment(config)
    source = build.open_source(config.data, "train")
    shape = tuple(source.spec.shapes["image"])
    model = build.make_model(config.model, config.data.classes)
    process = build.make_process(config.process)
    solvers = {name: method.make_solver(value) for name, value in config.solvers.items()}
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
    averages = {name: ema.parse(name) for name in config.train.ema}
    check(config, model, process, source)

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        return evaluation.evaluate(
            config, model, state.nets["model"].averaged(config.sample.ema), solvers, workdir
        )

    def draw(state: TrainState, workdir: Path) -> None:
        for name, solver in solvers.items():
            generate = method.make_generate(config, model, shape, solver)
            draw_samples(config, generate, state, workdir, name)

    def export(state: TrainState, workdir: Path) -> None:
        params = state.nets["model"].averaged(config.sample.ema)
        about = {"step": int(state.step), "ema": config.sample.ema, "value_range": [-1, 1]}
        save_params(workdir / "params.safetensors", params, {k: str(v) for k, v in about.items()})
        for name, solver in solvers.items():
            function = method.make_exportable(config, model, distributed.gather(params), shape, solver)
            facts = about | {"classes": config.data.classes, "solver": config.solvers[name].to_dict()}
            export_sampler(workdir / f"sampler-{name}.jaxexport", function, metadata=facts)

    return Experiment(
        init=make_init(config, shape),
        train_step=make_train_step(
            method.make_loss(config, model, process), optimizer, averages, accumulate=config.train.accumulate
        ),
        data=lambda index, count: build.make_pipeline(config, source, index, count),
        evaluate=evaluate,
        draw=draw,
        export=export,
        validate=make_validate(config, model, process) if config.train.validate_n else None,
        sharding_rules=TENSOR_RULES,
    )


def make_init(config: ConfigDict, shape: tuple[int, ...], start: Params | None = None) -> Init:
    """The state at step 0, for images of a shape; nothing of the data is read.

    ``start``: parameters to begin with, in place of random ones.
    """
    model = build.make_model(config.model, config.data.classes)
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)
    averages = {name: ema.parse(name) for name in config.train.ema}

    def init(key: Key[Array, ""]) -> TrainState:
        init_key, run_key = jax.random.split(key)
        params = init_params(model, init_key, shape) if start is None else jax.tree.map(jnp.asarray, start)
        return TrainState.create(run_key, {"model": init_net(params, optimizer, averages)})

    return init


def check(config: ConfigDict, model: nn.Module, process: GaussianProcess, source: data.Source) -> None:
    """Raise ``ValueError`` now for what would else fail after the folder was written or the run trained."""
    classes, theirs = config.data.classes, source.spec.num_classes
    allowed = f"0 (ignore labels) or {theirs or 0}, those of {config.data.source}"
    checks.require(classes in (0, theirs), "config.data.classes", classes, allowed)
    checks.require_one_of("config.sample.ema", config.sample.ema, ("", *config.train.ema))
    build.make_guidance(config.sample.guidance, config.sample.threshold)
    method.make_denoiser(config, build.make_apply(model), None, process)


def make_validate(config: ConfigDict, model: nn.Module, process: GaussianProcess) -> Validate:
    """The training loss of the averaged network on held-out images, under the same noise each time."""
    held_out = data.stack_items(build.open_source(config.data, "test"), config.train.validate_n)
    loss_fn = jax.jit(method.make_loss(config, model, process, train=False))
    key = jax.random.key_data(jax.random.key(config.seed + 5))

    def validate(state: TrainState) -> Mapping[str, float]:
        here = replicated(mesh_of(state))
        batch, raw = place(held_out, here), place(np.asarray(key), here)
        loss, _ = loss_fn(
            state.nets["model"].averaged(config.sample.ema), batch, jax.random.wrap_key_data(raw)
        )
        return {"valid_loss": float(loss)}

    return validate


def init_params(model: nn.Module, key: Key[Array, ""], shape: tuple[int, ...]) -> Params:
    """Parameters for images of one shape."""
    cond = method.condition(jnp.zeros(1, jnp.int32))
    return model.init(key, jnp.zeros((1, *shape)), jnp.zeros(1), cond)["params"]


def draw_samples(config: ConfigDict, generate: Any, state: TrainState, workdir: Path, name: str) -> None:
    """``config.sample.n`` samples, class after class, as ``.npz`` files and a sheet."""
    n, classes = config.sample.n, config.data.classes
    labels = np.arange(n) % classes if classes else np.full(n, method.UNCONDITIONAL)
    about = {field: config.sample[field] for field in ("guidance", "threshold", "ema")}
    about |= {"step": int(state.step), "solver": config.solvers[name].to_dict()}
    files = write_samples(
        lambda *arguments: generate(*arguments).x,
        state.nets["model"].averaged(config.sample.ema),
        jax.random.key(config.seed + 1),
        labels,
        workdir,
        f"samples-{name}",
        batch_size=config.sample.batch_size,
        per_file=config.sample.per_file,
        identity=about,
        png=config.sample.png,
        progress=Counted(name),
    )
    if distributed.is_main():
        first = np.load(files[0])
        method.save_sheet(workdir, name, first["image"], first["label"])
