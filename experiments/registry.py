"""The experiments by name, imported when asked for."""

import importlib

from ml_collections import ConfigDict

from diffax import checks
from experiments.base import Experiment

EXPERIMENTS = {
    name: f"experiments.{name}.experiment"
    for name in (
        "medical_survey",
        "ddgan",
        "f_distill",
        "diffusion_mbir",
        "radrotator",
        "mode_policy",
        "modegpt",
        "sage_rt",
    )
}


def make_experiment(config: ConfigDict) -> Experiment:
    """Build the experiment that ``config.experiment`` names."""
    checks.require_one_of("config.experiment", config.experiment, EXPERIMENTS)
    module = importlib.import_module(EXPERIMENTS[config.experiment])
    return module.make_experiment(config)
