"""Policies that denoise actions, with experts by the noise level."""
