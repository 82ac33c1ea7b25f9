"""Inverse problems: classical solvers and posterior samplers."""
