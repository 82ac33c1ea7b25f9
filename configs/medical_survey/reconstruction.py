"""Heads from a third of their k-space, and from a few projections.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/reconstruction.py:demo \
        --workdir=runs/reconstruction

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator). Measured
figures: experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "scans": ("mri", "ct"),
    "steps": 40,
    "draws": 4,  # samples that are averaged
    "acceleration": 3.2,  # of the lines of k-space
    "centre": 0.125,  # share of the lines that is measured in the middle
    "views": 12,  # projections
    "cg_steps": 20,  # of conjugate gradients, towards the projections
    "tv_mri": 0.02,  # weights of total variation, the best of several tried
    "tv_ct": 0.0002,
    "tv_steps": 300,
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    smoke = {"eval.steps": 2, "eval.draws": 2, "eval.tv_steps": 3}
    return task_settings.variant_of(variant, "reconstruction", EVALUATION, smoke=smoke)
