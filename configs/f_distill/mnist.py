"""MNIST from a local folder (``mnist.npz`` in Keras' layout): a teacher by class, then its student.

    python -m experiments.main --config=configs/f_distill/mnist.py:full --workdir=runs/mnist1 --mode=train \
        --config.data.data_dir=FOLDER

``--config.teacher=WORKDIR`` takes the network of an earlier run of ``configs/medical_survey/mnist.py``.
Variants: ``full``, ``gpu`` (25 minutes on one large GPU, teacher included), ``smoke`` (seconds on a CPU). Not
trained by us.
"""

from ml_collections import ConfigDict

from configs.medical_survey.mnist import get_config as teacher_config
from experiments.f_distill import settings

DATA = {"data.source": "mnist", "data.data_dir": "."}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    full = {
        **DATA,
        **settings.IMAGES_FULL,
        "teacher_run": teacher_config("full").to_dict(),
        "train.num_steps": 20_000,
        "train.optimizer.learning_rate": 1e-4,
        "train.critic_rate": 1e-4,
        "eval.classifier_steps": 3000,
    }
    short = teacher_config("full")
    short.train.num_steps = 8000
    gpu = {**full, **settings.SHORT, "teacher_run": short.to_dict()}
    smoke = {**DATA, **settings.SMOKE, "teacher_run": teacher_config("smoke").to_dict()}
    return settings.variant_of(variant, {"full": full, "gpu": gpu, "smoke": smoke}, settings.images(), "full")
