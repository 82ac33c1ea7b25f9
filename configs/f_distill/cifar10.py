"""CIFAR-10 from a local folder (``cifar10_train.parquet``, ``cifar10_test.parquet``), one step, by class.

    python -m experiments.main --config=configs/f_distill/cifar10.py:full --workdir=runs/cifar1 --mode=train \
        --config.data.data_dir=FOLDER --config.teacher=runs/cifar10 --config.divergence=kl

Published (Xu et al. 2025, table 2, Fréchet distance / recall, one call): forward KL 1.92 / 0.62, squared
Hellinger 1.99 / 0.63, Jensen-Shannon 2.00 / 0.62, Jeffreys 2.05 / 0.62, reverse KL 2.13 / 0.60, softened
reverse KL 2.21 / 0.60; teacher, 35 calls, 1.79 / 0.63. Give ``--config.eval.inception=FILE`` for comparable
features. Variants: ``full`` (the paper's), ``gpu`` (short, on one large GPU, with a teacher of its own),
``smoke`` (seconds on a CPU). Not trained by us.
"""

from ml_collections import ConfigDict

from configs.medical_survey.cifar10 import get_config as teacher_config
from experiments.f_distill import settings

DATA = {"data.source": "cifar10", "data.data_dir": ".", "data.flip": True}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    full = {
        **DATA,
        **settings.IMAGES_FULL,
        "divergence": "kl",
        "teacher_run": teacher_config("full").to_dict(),
        "gan.gamma": 1.0,
        "train.batch_size": 2048,
        "train.num_steps": 12_000,  # 60,000 updates, of which every fifth is the student's
        "train.optimizer.learning_rate": 1e-4,
        "train.critic_rate": 1e-4,
        "eval.classifier_steps": 6000,
    }
    short = teacher_config("full")
    short.train.num_steps, short.train.optimizer.warmup_steps = 6000, 500
    gpu = {**full, **settings.SHORT, "teacher_run": short.to_dict()}
    smoke = {**DATA, **settings.SMOKE, "teacher_run": teacher_config("smoke").to_dict()}
    return settings.variant_of(variant, {"full": full, "gpu": gpu, "smoke": smoke}, settings.images(), "full")
