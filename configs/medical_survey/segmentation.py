"""Lesions of the embedded heads, outlined by an ensemble of samples.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/segmentation.py:demo \
        --workdir=runs/segmentation

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator). Measured
figures: experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "draws": 5,  # samples of each mask
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "sample.steps": 10,
        "train.num_steps": 550,
        # v's weights make samples that ignore small lesions; v as the output ones that are full of holes
        "loss.weighting": {"name": "simple", "target": "x0"},
        "output": "x0",
    }
    return task_settings.variant_of(
        variant, "segmentation", EVALUATION, demo=demo, smoke={"eval.draws": 2, "train.num_steps": 6}
    )
