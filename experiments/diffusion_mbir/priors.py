"""Priors: networks trained on slices, as the launcher leaves them in a workdir."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffax import checks
from diffax.data.torsos import HU_RANGE
from diffax.models import TENSOR_RULES
from diffax.processes import GaussianProcess
from diffax.training import distributed
from diffax.types import DenoiseFn, Params
from experiments import build, modes
from experiments.base import Init
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
    value_range: tuple[float, float] | None = None  # HU that -1 and 1 stand for; None: not known, or MR


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
    modality = config.get("modality", "")
    return Prior(make_denoise(config), params, size, modality, _hounsfield(config, modality))


def _hounsfield(config: ConfigDict, modality: str) -> tuple[float, float] | None:
    if modality != "ct":
        return None
    low, high = config.data.value_range or HU_RANGE
    return float(low), float(high)


def begin_from(config: ConfigDict) -> Init:
    """The state at step 0 of a prior that starts as another run's averaged network, ``config.start``.

    Raises ``ValueError`` for a network of other shapes.
    """
    start, size = load_prior(config.start), config.data.size
    shape = (size, size, 1)
    asked = jax.eval_shape(make_init(config, shape), jax.random.key(0)).nets["model"].params
    same = jax.tree.map(jnp.shape, asked) == jax.tree.map(jnp.shape, start.params)
    checks.require(same, "config.start", config.start, "a run of the same config.model")
    return make_init(config, shape, start.params)


def check_fits(prior: Prior, geometry: Geometry, value_range: tuple[float, float], name: str) -> None:
    """``ValueError`` for slices that the prior did not learn: other size, modality or Hounsfield units."""
    size = (prior.size, prior.size)
    checks.require(geometry.shape[:2] == size, f"{name}: size of slices", geometry.shape[:2],
                   f"{size}, as the prior's (simulate with --size={prior.size})")  # fmt: skip
    same = prior.modality in ("", geometry.modality)
    checks.require(same, f"{name}: modality", geometry.modality, f"{prior.modality}, as the prior's")
    if prior.value_range is not None:
        allowed = f"{prior.value_range}, as the prior's (simulate with --value_range)"
        checks.require(value_range == prior.value_range, f"{name}: value_range", value_range, allowed)
