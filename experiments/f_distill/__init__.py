"""Distillation into one step by matching distributions in an f-divergence."""
