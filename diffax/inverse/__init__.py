"""Inverse problems: classical solvers and posterior samplers."""

from diffax.inverse.fbp import fbp, ramp_filter, view_weights

__all__ = ["fbp", "ramp_filter", "view_weights"]
