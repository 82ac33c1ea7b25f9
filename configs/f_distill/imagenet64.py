"""ImageNet at 64 x 64, by class: the paper's settings around a teacher that you bring.

    python -m experiments.main --config=configs/f_distill/imagenet64.py --workdir=runs/imagenet1 \
        --mode=train --config.data.source=FOLDER --config.teacher=WORKDIR

``FOLDER`` holds a folder of images for each class; ``WORKDIR`` is a run of ``medical_survey`` on them.
Neither comes with this library, and no published checkpoint is read here: without both this cannot be run,
and was not. Published (Xu et al. 2025, table 3, Fréchet distance / recall, one call): Jensen-Shannon 1.16 /
0.66, forward KL 1.21 / 0.65, reverse KL 1.27 / 0.65; EDM's teacher, 79 calls, 2.35 / 0.68.
"""

from ml_collections import ConfigDict

from experiments.f_distill import settings


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration; there is one variant."""
    full = {
        **settings.IMAGES_FULL,
        "data.source": ".",
        "data.size": 64,
        "data.channels": 3,
        "data.holdout": 0.05,
        "data.flip": True,
        "teacher_run": {},
        "divergence": "js",
        "ratio.decay": 0.5,
        "gan.weight": 3e-3,
        "gan.levels": ("middle",),
        "train.batch_size": 512,
        "train.num_steps": 76_000,  # 380,000 updates
        "train.optimizer.learning_rate": 2e-6,
        "train.critic_rate": 2e-6,
        "eval.batch_size": 250,
    }
    return settings.variant_of(variant, {"full": full}, settings.images(), "full")
