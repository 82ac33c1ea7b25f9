"""CIFAR-10 from a local folder (``cifar10_train.parquet``, ``cifar10_test.parquet``), four steps.

    python -m experiments.main --config=configs/ddgan/cifar10.py:full --workdir=runs/ddgan-cifar10 \
        --mode=train --config.data.data_dir=FOLDER

Published (Xiao et al. 2022, table 1): Fréchet distance 3.75 to the training images, recall 0.57, 0.21 s for
100 images on a V100. Give ``--config.eval.inception=FILE`` for comparable features. Variants: ``full`` (the
paper's appendix: batch 128, R1 0.05, 400,000 steps; its code trains with batch 256, R1 0.02, rates 1.25e-4
and 1.6e-4), ``gpu`` (25 minutes on one large GPU), ``smoke`` (seconds on a CPU). Not trained by us.
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    data = {"data.source": "cifar10", "data.data_dir": ".", "data.flip": True, "eval.channel_source": ""}
    full = {
        **data,
        **settings.PAPER,
        "generator": settings.GENERATOR_32,
        "discriminator": settings.DISCRIMINATOR_32,
        "r1.gamma": 0.05,
        "r1.lazy": 15,
        "train.batch_size": 128,
        "train.num_steps": 400_000,
        "train.optimizer.learning_rate": 1.6e-4,
        "train.discriminator_rate": 1e-4,
        "eval.classifier_steps": 6000,
    }
    gpu = {**full, "train.num_steps": 10_000, "train.ema": ("warmup:0.999",), "sample.ema": "warmup:0.999"}
    variants = {"full": full, "gpu": gpu, "smoke": {**data, **settings.SMOKE}}
    return settings.variant_of(variant, variants, settings.images(), default="full")
