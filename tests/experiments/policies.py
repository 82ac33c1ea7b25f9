"""Configurations of policies for tests."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load(variant="smoke", file="navigation", **changes):
    """A variant of ``configs/mode_policy/FILE.py`` with some values changed."""
    config = runpy.run_path(str(ROOT / f"configs/mode_policy/{file}.py"))["get_config"](variant)
    config.update_from_flattened_dict(changes)
    return config
