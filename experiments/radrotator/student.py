"""A student that turns a radiograph in one call of the network: f-distill with the rotation as condition."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.models import TENSOR_RULES
from diffax.training.step import Batch
from diffax.types import ApplyFn, Cond, DenoiseFn, Params
from experiments import build, modes
from experiments.base import Experiment
from experiments.f_distill.experiment import distil, method_of
from experiments.f_distill.networks import make_look
from experiments.f_distill.target import Start, Target
from experiments.radrotator import evaluation, method, patients, views
from experiments.workdir import read_config


def make_experiment(config: ConfigDict) -> Experiment:
    """The distillation of ``config.teacher``'s network, on views that are rendered as its were."""
    own = as_distillation(config)
    return distil(own, target := make_target(config), method_of(own, target))._replace(export=None)


def as_distillation(config: ConfigDict) -> ConfigDict:
    """The configuration as f-distill reads it."""
    distil = config.distil.to_dict()
    train = config.train.to_dict() | {"critic_rate": distil["critic_rate"]}
    return ConfigDict({**distil, "train": train, "sample": config.sample.to_dict()})


def make_target(config: ConfigDict) -> Target:
    """The teacher's network under its process, told of a radiograph and a rotation."""
    model, process, size = (
        build.make_model(config.model, 0),
        build.make_process(config.process),
        config.arm.size,
    )
    draw = views.make_draw(config, views.make_render(config))

    def bind(apply_fn: ApplyFn, params: Params) -> DenoiseFn:
        return method.make_denoiser(config, apply_fn, params, process)

    def prepare(batch: Batch, key: Key[Array, ""]) -> Batch:
        pairs = draw(batch, key)
        return {"image": pairs.target, "given": pairs.image, "vector": pairs.vector}

    def condition(batch: Batch) -> Cond:
        return method.condition(batch["given"], batch["vector"])

    def start(key: Key[Array, ""]) -> Params:
        return method.init_params(config, model, key)

    wide = config.copy_and_resolve_references()
    wide.train.batch_size *= config.distil.critic_steps  # a batch for every update of the critics
    look = make_look(model, bind)
    blank = jnp.zeros((1, size, size, 1))
    return Target(
        shape=(size, size, 1), field="image", sigma_data=0.5, process=process, labelled=True,
        teacher=look, score=look, start=start, begin=lambda _: begin(config, start),
        data=patients.make_data(wide),
        evaluate=lambda _, state, workdir: evaluation.evaluate(config, state, workdir),
        draw=lambda _, state, workdir: evaluation.draw(config, state, workdir),
        rules=TENSOR_RULES, prepare=prepare, condition=condition,
        example=method.condition(blank, jnp.zeros((1, 3))),
        guide=lambda scale: method.make_guidance(scale, config.sample.rescale),
    )  # fmt: skip


def begin(config: ConfigDict, start: Start) -> Start:
    """The teacher's averaged parameters; ``ValueError`` where they are not those of this network."""
    folder = Path(config.teacher)
    checks.require(bool(config.teacher), "config.teacher", config.teacher, "the folder of a diffusion run")
    theirs = read_config(folder)
    about = (theirs.get("experiment"), theirs.get("objective"))
    allowed = "a run of radrotator with the objective diffusion"
    checks.require(about == ("radrotator", "diffusion"), "config.teacher", config.teacher, allowed)
    theirs.mesh, theirs.cpu_devices = config.mesh, config.cpu_devices
    _, state = modes.load(theirs, folder)
    found: Any = method.parameters(theirs, state)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (jax.eval_shape(start, jax.random.key(0)), found)]
    checks.require(shapes[0] == shapes[1], "config.model", config.teacher, "the teacher's model")
    return lambda key: jax.tree.map(jnp.asarray, found)
