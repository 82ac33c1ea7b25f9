"""Three embedded 8 x 8 digits as the channels of an image: 1,000 modes, and a classifier that counts them.

    python -m experiments.main --config=configs/ddgan/stacked_digits.py:demo --workdir=runs/stacked \
        --mode=train
    python -m experiments.main --config=configs/ddgan/stacked_digits.py:demo --workdir=runs/stacked \
        --mode=eval

Variants: ``demo`` (perceptrons over all pixels; minutes on 2 cores), ``no_latent`` and ``l2`` (the same
without z, and regression on x0), ``gpu`` and ``full`` (convolutional networks, not trained), ``smoke``.
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings

PERCEPTRON = {**settings.PERCEPTRON, "width": 384}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "generator": PERCEPTRON,
        "discriminator": PERCEPTRON,
        "latent": 32,
        "train.batch_size": 128,
        "train.num_steps": 30_000,
        "train.checkpoint_every": 5000,
        "train.ema": ("warmup:0.999",),
        # the discriminator must outrun the generator, or neither learns
        "train.optimizer.learning_rate": 3e-4,
        "train.discriminator_rate": 3e-3,
    }
    gpu = {
        "train.batch_size": 256,
        "train.num_steps": 50_000,
        "train.checkpoint_every": 5000,
        "train.optimizer.learning_rate": 2e-4,
        "train.discriminator_rate": 1e-3,
        "eval.n": 25_600,
    }
    variants = {
        "demo": demo,
        "no_latent": {**demo, "latent": 0},
        "l2": {**demo, "latent": 0, "objective": "l2"},
        "gpu": gpu,
        "full": {**gpu, "train.num_steps": 200_000},
        "smoke": settings.SMOKE,
    }
    return settings.variant_of(variant, variants, settings.images())
