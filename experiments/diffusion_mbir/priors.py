"""Priors: networks trained on slices, as the launcher leaves them in a workdir."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffax import checks
from diffax.models import TENSOR_RULES
from diffax.processes import GaussianProcess
from diffax.training import distributed
from diffax.types import DenoiseFn, Params
from experiments import build, modes
from experiments.diffusion_mbir.scan import Geometry
from experiments.medical_survey.experiment import make_init
from experiments.medical_survey.method import make_denoiser
from experiments.workdir import read_config


class Prior(NamedTuple):
    """Averaged parameters, how to bind them to a process, and what slices they learned."""

    denoise: Callable[[Params, GaussianProcess], DenoiseFn]
    params: Params
    size: int
    modality: str  # "ct", "mr", or "" where the run does not say


def make_denoise(config: ConfigDict) -> Callable[[Params, GaussianProcess], DenoiseFn]:
    """The configuration's network as a denoiser under any process."""
    apply_fn = build.make_apply(build.make_model(config.model, config.data.classes))
    return lambda params, process: make_denoiser(config, apply_fn, params, process)


def load_prior(workdir: str | Path, checkpoint: str = "newest") -> Prior:
    """The prior in a folder; ``ValueError`` for one that is not a run of images with one channel."""
    folder = Path(workdir)
    config = read_config(folder)
    kinds = ("diffusion_mbir", "medical_survey")
    checks.require(config.experiment in kinds, "--prior", str(workdir), f"a run of {' or '.join(kinds)}")
    allowed = "a prior without classes"
    checks.require(config.data.classes == 0, "--prior: config.data.classes", config.data.classes, allowed)
    size = int(config.data.size)
    checks.require(
        size > 0, "--prior: config.data.size", size, "a side in pixels, so that a scan's can be told"
    )
    modes.check_run(config, folder)
    state = modes.load_state(config, folder, make_init(config, (size, size, 1)), TENSOR_RULES, checkpoint)
    params: Any = distributed.gather(state.nets["model"].averaged(config.sample.ema))
    params = jax.tree.map(jnp.asarray, params)
    return Prior(make_denoise(config), params, size, config.get("modality", ""))


def check_fits(prior: Prior, geometry: Geometry, name: str) -> None:
    """``ValueError`` for a scan of slices that the prior did not learn: other size, other modality."""
    size = (prior.size, prior.size)
    checks.require(geometry.shape[:2] == size, f"{name}: size of slices", geometry.shape[:2],
                   f"{size}, as the prior's (simulate with --size={prior.size})")  # fmt: skip
    same = prior.modality in ("", geometry.modality)
    checks.require(same, f"{name}: modality", geometry.modality, f"{prior.modality}, as the prior's")
