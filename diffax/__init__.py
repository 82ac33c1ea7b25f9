"""diffax: diffusion models in JAX, from pure functions.

A model is ``denoise(x_t, t, cond) -> x0_hat``; guidance maps denoisers to denoisers, samplers turn them
into samples. The rooms that need files or optional packages (data, training, evaluation, io) are loaded
at first use.
"""

import importlib
from typing import Any

from diffax import denoisers, guidance, losses, models, processes, samplers, types
from diffax.denoisers import bind, gaussian_denoiser, mixture_denoiser, precondition
from diffax.processes import (
    EDM,
    VE,
    VP,
    Cosine,
    FromTable,
    RectifiedFlow,
    SubVP,
    bridge,
    convert,
    drift_diffusion,
    grids,
    marginal,
    prior_log_prob,
    prior_sample,
    tables,
    times,
)
from diffax.samplers import bits_per_dim, log_likelihood, sample

__version__ = "0.1.0"

_LAZY = ("data", "evaluation", "io", "training")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"diffax.{name}")
    raise AttributeError(f"module 'diffax' has no attribute {name!r}")


__all__ = [
    "EDM",
    "VE",
    "VP",
    "Cosine",
    "FromTable",
    "RectifiedFlow",
    "SubVP",
    "bind",
    "bits_per_dim",
    "bridge",
    "convert",
    "data",
    "denoisers",
    "drift_diffusion",
    "evaluation",
    "gaussian_denoiser",
    "grids",
    "guidance",
    "io",
    "log_likelihood",
    "losses",
    "marginal",
    "mixture_denoiser",
    "models",
    "precondition",
    "prior_log_prob",
    "prior_sample",
    "processes",
    "sample",
    "samplers",
    "tables",
    "times",
    "training",
    "types",
]
