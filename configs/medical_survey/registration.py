"""One image onto another: a flow that a denoiser's estimate of noise tells, and shares of it on the way.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/registration.py:demo \
        --workdir=runs/registration

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator). Your own
pairs: ``--config.data.source=FOLDER --config.data.fixed=fixed --config.data.moving=moving`` with files of
equal names in FOLDER/fixed and FOLDER/moving (and FOLDER/mask_fixed, FOLDER/mask_moving for Dice), or
``--config.data.source=FOLDER --config.data.image=NAME`` to make pairs of FOLDER/NAME. Measured figures:
experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "etas": (0.0, 0.25, 0.5, 0.75, 1.0),  # shares of the estimate of noise, on the way
    "demons": {"iterations": 50, "std": 1.5, "levels": 3},
}
FLOW = {
    "longest": (0.03, 0.09),  # of made pairs: the longest displacement, as a share of the side
    "control": 4,  # points along each axis that it is drawn on; more is rougher
    "noise": 0.015,  # of both images of a made pair, as a share of the full range of greys
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "data.image": "A",
        "data.fixed": "",  # fields of a folder with pairs; "" to make pairs of data.image
        "data.moving": "",
        "data.noise": 0.0,  # each image of a pair gets its own
        "flow": FLOW,
        "model": task_settings.UNET | {"channels": 24},
        "loss.similarity": 2.0,  # lambda, of the NCC
        "loss.window": 9,  # of the NCC, in pixels
        "loss.smoothness": 0.5,  # lambda_s
        "loss.path": 2.0,  # lambda_p, of a flow that grows with eta; 0 for DiffuseMorph's own loss
        "loss.at_zero": 0.5,  # share of fixed images without noise, as where it registers
        "train.batch_size": 24,
        "train.num_steps": 560,
    }
    return task_settings.variant_of(
        variant, "registration", EVALUATION, demo=demo, smoke={"train.num_steps": 6}
    )
