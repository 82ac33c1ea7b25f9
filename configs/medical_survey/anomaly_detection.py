"""Anomaly detection on the embedded heads: healthy versions of images with lesions, three ways.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/anomaly_detection.py:demo \
        --workdir=runs/anomaly

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator). Expected
figures: experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "depth": 0.35,  # to which partial noising goes, as a share of the process's time
    "steps": 10,
    "repeats": 4,  # noises that are averaged over
    "depth_ddim": 0.6,  # to which DDIM encodes
    "steps_ddim": 24,
    "guidance": 2.0,  # of the classifier-free way
    "classifier_scale": 30.0,
    "components": 30,  # of the baseline by principal axes
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    smoke = {"eval.steps": 2, "eval.steps_ddim": 2, "eval.repeats": 1, "eval.components": 4}
    demo = {"classifier": True}
    return task_settings.variant_of(variant, "anomaly_detection", EVALUATION, demo=demo, smoke=smoke)
