"""Stable Diffusion 1.5's settings, in the latent space of any autoencoder, around a teacher that you bring.

    python -m experiments.main --config=configs/f_distill/sd15.py --workdir=runs/latents1 --mode=train \
        --config.data.source=latents.npz --config.teacher=WORKDIR

``latents.npz`` holds ``image``, float (n, 64, 64, 4), scaled into [-1, 1] by ``data.value_range``;
``WORKDIR`` is a run of ``medical_survey`` on them. What cannot be run here: Stable Diffusion's own weights.
Its U-Net attends to a text's tokens, which no network of this library does, and neither its autoencoder nor
its text encoder is part of it; so the paper's text-to-image figures (zero-shot COCO, 512 x 512: Fréchet
distance 7.42 for Jensen-Shannon, 8.17 for the reverse KL; Xu et al. 2025, table 4) are out of reach. Not
run by us.
"""

from ml_collections import ConfigDict

from experiments.f_distill import settings


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration; there is one variant."""
    full = {
        **settings.IMAGES_FULL,
        "data.source": "latents.npz",
        "data.holdout": 0.05,
        "teacher_run": {},
        "divergence": "js",
        "guidance": 1.0,  # the paper's 1.75 needs a teacher with classes
        "critic_steps": 9,  # every tenth update is the student's
        "gan.gamma": 1.0,
        "gan.levels": ("middle",),
        "train.batch_size": 1024,
        "train.num_steps": 6000,  # 60,000 updates
        "train.optimizer.learning_rate": 1e-5,
        "train.critic_rate": 1e-5,
        "eval.batch_size": 100,
    }
    return settings.variant_of(variant, {"full": full}, settings.images(), "full")
