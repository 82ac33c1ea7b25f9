"""Denoising of heads with noise of known strength.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/denoising.py:demo \
        --workdir=runs/denoising

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator),
``self_supervised`` (trained on pairs of noisy acquisitions alone). Measured figures:
experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "noise": (0.1, 0.05),  # standard deviations, as shares of the full range of greys
    "draws": 4,  # samples of the posterior
    "steps": 20,  # of each
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    smoke = {"eval.draws": 1, "eval.steps": 2, "eval.noise": (0.1,)}
    alone = {
        "supervision": "noisy",
        "classifier": False,
        "eval.noise": (0.1,),
        "train.num_steps": 900,
    }
    return task_settings.variant_of(variant, "denoising", EVALUATION, smoke=smoke, self_supervised=alone)
