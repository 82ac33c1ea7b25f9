"""From one modality to the other, with pairs or without.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/translation.py:demo \
        --workdir=runs/translation

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator),
``unpaired`` (a bridge of two DDIM paths). Measured figures: experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "draws": 4,  # samples that are averaged
    "depth": 1.0,  # to which the bridge encodes, as a share of the process's time
    "steps": 60,  # of the bridge, each way
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "data.image": "A",
        "train.num_steps": 700,
        "loss.weighting": {"name": "simple", "target": "v"},
    }
    smoke = {"eval.draws": 2, "eval.steps": 2, "train.num_steps": 6}
    unpaired = {"pairs": "unpaired", "train.num_steps": 1000}
    return task_settings.variant_of(
        variant, "translation", EVALUATION, demo=demo, smoke=smoke, unpaired=unpaired
    )
