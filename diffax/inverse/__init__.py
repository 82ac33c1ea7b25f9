"""Inverse problems: measurements as problems, classical solvers, posterior denoisers and samplers."""

from diffax.inverse.chunks import in_chunks
from diffax.inverse.consistency import ddnm, dds, diffpir, isotropic, pigdm, tweedie_covariance
from diffax.inverse.fbp import fbp, ramp_filter, view_weights
from diffax.inverse.linear import Solution, cg, cgls, sirt
from diffax.inverse.posterior import (
    dds_volume,
    dps,
    red_diff,
    replacement,
    sart_step,
    tv_consistency,
)
from diffax.inverse.problem import (
    LinearProblem,
    balance,
    normalise,
    rescale,
    residual,
    to_batch,
    to_images,
    whiten,
)
from diffax.inverse.total_variation import admm_sweep, admm_tv, fista_tv, shrink, total_variation

__all__ = [
    "LinearProblem",
    "Solution",
    "admm_sweep",
    "admm_tv",
    "balance",
    "cg",
    "cgls",
    "ddnm",
    "dds",
    "dds_volume",
    "diffpir",
    "dps",
    "fbp",
    "fista_tv",
    "in_chunks",
    "isotropic",
    "normalise",
    "pigdm",
    "ramp_filter",
    "red_diff",
    "replacement",
    "rescale",
    "residual",
    "sart_step",
    "shrink",
    "sirt",
    "to_batch",
    "to_images",
    "total_variation",
    "tv_consistency",
    "tweedie_covariance",
    "view_weights",
    "whiten",
]
