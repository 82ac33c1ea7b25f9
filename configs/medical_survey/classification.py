"""Lesion or none: the label under which a generative model explains an image best.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/classification.py:demo \
        --workdir=runs/classification

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator). Measured
figures: experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "levels": (0.1, 2.0),  # noise to signal, between which errors are averaged
    "noises": 32,
    "feature_level": 0.2,  # noise at which inner activations are read
    "labelled": 100,  # images with labels that the features, and one of the baselines, learn from
    "cnn_images": 3000,
    "cnn_steps": 400,
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    smoke = {"eval.noises": 2, "eval.labelled": 20, "eval.cnn_images": 40, "eval.cnn_steps": 5}
    return task_settings.variant_of(variant, "classification", EVALUATION, demo={"eval.n": 256}, smoke=smoke)
