"""The embedded 8 x 8 digits: a teacher, then a student of one step, in one command.

    python -m experiments.main --config=configs/f_distill/digits.py:demo --workdir=runs/digits1 --mode=train
    python -m experiments.main --config=configs/f_distill/digits.py:demo --workdir=runs/digits1 --mode=eval

The teacher is trained in WORKDIR/teacher first; ``--config.teacher=WORKDIR`` takes that of an earlier run.
Variants: ``demo`` (minutes on 2 cores; perceptrons), ``smoke`` (seconds).
"""

from ml_collections import ConfigDict

from experiments.f_distill import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "teacher_run": settings.digits_teacher(),
        "student_levels": (20.0,),  # forty times the data's deviation
        "noise.low": 0.02,
        "noise.high": 20.0,
        "critic_steps": 2,
        "train.num_steps": 1200,
        "train.batch_size": 128,
        "train.checkpoint_every": 400,
    }
    smoke = {"teacher_run": settings.smoke_teacher()} | settings.SMOKE
    return settings.variant_of(variant, {"demo": demo, "smoke": smoke}, settings.images())
