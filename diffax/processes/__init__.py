"""Noise processes, their coefficients, parametrizations and time grids."""

from diffax.processes import grids, tables, times
from diffax.processes.coefficients import (
    Bridge,
    Marginal,
    bridge,
    drift_diffusion,
    marginal,
    noise_to_signal,
    normal,
    per_sample,
    perturb,
    prior_log_prob,
    prior_sample,
    rates,
    transition,
)
from diffax.processes.discrete import FromTable
from diffax.processes.gaussian import (
    EDM,
    VE,
    VP,
    Cosine,
    GaussianProcess,
    RectifiedFlow,
    SubVP,
    bisect_time,
)
from diffax.processes.parametrize import TARGETS, convert, from_x0_eps, to_x0_eps

__all__ = [
    "EDM",
    "TARGETS",
    "VE",
    "VP",
    "Bridge",
    "Cosine",
    "FromTable",
    "GaussianProcess",
    "Marginal",
    "RectifiedFlow",
    "SubVP",
    "bisect_time",
    "bridge",
    "convert",
    "drift_diffusion",
    "from_x0_eps",
    "grids",
    "marginal",
    "noise_to_signal",
    "normal",
    "per_sample",
    "perturb",
    "prior_log_prob",
    "prior_sample",
    "rates",
    "tables",
    "times",
    "to_x0_eps",
    "transition",
]
