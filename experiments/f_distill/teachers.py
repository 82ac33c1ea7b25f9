"""Teachers from runs of ``medical_survey``: an earlier one, or one that this run trains first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from diffax import checks
from diffax.processes import GaussianProcess
from diffax.training import distributed
from diffax.types import ApplyFn, DenoiseFn, Params
from experiments import build, modes
from experiments.f_distill.target import Start
from experiments.medical_survey import method as survey
from experiments.progress import say
from experiments.workdir import read_config


def find(config: ConfigDict) -> ConfigDict:
    """The configuration of the teacher's run: that of ``config.teacher``'s folder, or ``config.teacher_run``.

    Raises ``ValueError`` for a folder that holds no run of ``medical_survey``.
    """
    if not config.teacher and config.teacher_run:
        own = prepared(config.teacher_run, config)
        own.data.update(config.data)
        own.seed = config.seed
        return own
    checks.require(
        bool(config.teacher) and Path(config.teacher).is_dir(),
        "config.teacher",
        config.teacher,
        "the folder of a trained run",
    )
    found = read_config(Path(config.teacher))
    kind = found.get("experiment")
    checks.require(kind == "medical_survey", "config.teacher", config.teacher, "a run of medical_survey")
    return prepared(found, config)


def prepared(teacher: ConfigDict, config: ConfigDict) -> ConfigDict:
    """The teacher's configuration on this run's devices, and under this run's guidance."""
    teacher = teacher.copy_and_resolve_references()
    teacher.mesh, teacher.cpu_devices = config.mesh, config.cpu_devices
    teacher.sample.guidance = config.guidance
    return teacher


def make_bind(teacher: ConfigDict, process: GaussianProcess) -> Callable[[ApplyFn, Params], DenoiseFn]:
    """How the teacher's raw network becomes a denoiser under a process."""
    return lambda apply_fn, params: survey.make_denoiser(teacher, apply_fn, params, process)


def make_model(teacher: ConfigDict) -> nn.Module:
    """The teacher's network."""
    return build.make_model(teacher.model, teacher.data.classes)


def begin(config: ConfigDict, teacher: ConfigDict, workdir: Path, start: Start) -> Start | None:
    """The teacher's averaged parameters, as a function of a key that is not needed.

    Without ``config.teacher`` the teacher is trained in ``WORKDIR/teacher``, or what is missing of its run;
    None where SIGTERM came before the end of it. ``start`` makes parameters of the shapes that are wanted.
    Raises ``ValueError`` where the teacher's are others.
    """
    folder = Path(config.teacher or workdir / "teacher")
    if not config.teacher:
        say(f"the teacher, in {folder}: {teacher.train.num_steps} steps")
        if not modes.train(teacher, str(folder)):
            return None
        say(f"the student, in {workdir}: {config.train.num_steps} steps")
    _, state = modes.load(teacher, folder)
    found: Any = distributed.gather(state.nets["model"].averaged(teacher.sample.ema))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (jax.eval_shape(start, jax.random.key(0)), found)]
    allowed = f"images shaped as those of {teacher.data.source}, which the teacher learned"
    checks.require(shapes[0] == shapes[1], "config.data.source", config.data.source, allowed)
    return lambda key: jax.tree.map(jnp.asarray, found)
