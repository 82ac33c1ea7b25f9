"""Composition: a prior trained as the survey trains its networks, judged by what it reconstructs."""

from ml_collections import ConfigDict

from diffax import checks
from experiments.base import Experiment
from experiments.diffusion_mbir import evaluation
from experiments.diffusion_mbir.method import DIFFUSION, settings_of
from experiments.diffusion_mbir.priors import begin_from
from experiments.medical_survey.experiment import make_experiment as make_prior


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    for method, changed in config.methods.items():
        checks.require_one_of("config.methods", method, DIFFUSION)
        settings_of(method, changed)
    volumes = config.reconstruct.volumes
    checks.require(volumes >= 1, "config.reconstruct.volumes", volumes, "at least 1")
    checks.require_one_of("config.modality", config.modality, ("ct", "mr"))
    prior = make_prior(config)
    return prior._replace(
        evaluate=lambda state, workdir: evaluation.evaluate(config, state, workdir),
        begin=(lambda _: begin_from(config)) if config.start else None,
    )
