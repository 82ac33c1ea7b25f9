"""Heads as a report of a few words describes them.

    python -m experiments.medical_survey.demo
    --config=configs/medical_survey/text_conditioned_generation.py:demo \
    --workdir=runs/text_conditioned_generation

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator). Measured
figures: experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "guidance": (3.0, 0.0, 1.0, 2.0),  # the first is what pictures are drawn with
    "n_others": 50,  # samples at the other scales
    "reader_steps": 800,  # of the classifier that tells which facts a sample shows
}
PROMPTS = (
    "no lesion, normal ventricles",
    "no lesion, enlarged ventricles",
    "small lesion on the left, normal ventricles",
    "large lesion on the left, enlarged ventricles",
    "large lesion on the right, normal ventricles",
    "lesion",
    "enlarged ventricles",
)


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "eval.n": 250,
        "sample.prompts": PROMPTS,
        "loss.weighting": {"name": "simple", "target": "x0"},  # facts are decided where noise is high
        "train.num_steps": 900,
    }
    smoke = {
        "train.num_steps": 6,
        "eval.n": 100,
        "eval.guidance": (1.0,),
        "eval.reader_steps": 5,
        "sample.prompts": PROMPTS[:2],
    }
    return task_settings.variant_of(
        variant, "text_conditioned_generation", EVALUATION, demo=demo, smoke=smoke
    )
