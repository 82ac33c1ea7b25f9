"""StackedMNIST, 1,000 modes at 32 x 32, from a local folder (``mnist.npz`` in Keras' layout), four steps.

    python -m experiments.main --config=configs/ddgan/stacked_mnist.py:full --workdir=runs/stacked-mnist \
        --mode=train --config.data.data_dir=FOLDER

Published (Xiao et al. 2022, table 3): 1,000 modes and KL 0.071, ungated, of 25,600 samples; the divergence
of as many exact draws is 0.0195. Compare with ``modes_raw`` and ``kl_raw`` of ``result.json``. Variants:
``full``, ``gpu`` (25 minutes on one large GPU), ``smoke`` (seconds on a CPU). Not trained by us.
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    data = {"data.source": "stacked_mnist", "data.data_dir": ".", "eval.channel_source": "mnist"}
    full = {
        **data,
        **settings.PAPER,
        "generator": {**settings.GENERATOR_32, "channels": 64},
        "discriminator": settings.DISCRIMINATOR_32,
        "r1.gamma": 0.02,
        "r1.lazy": 15,
        "train.batch_size": 256,
        "train.num_steps": 150_000,
        "train.optimizer.learning_rate": 1.6e-4,
        "train.discriminator_rate": 1e-4,
        "eval.n": 25_600,
        "eval.classifier_steps": 3000,
    }
    gpu = {**full, "train.num_steps": 20_000, "train.ema": ("warmup:0.999",), "sample.ema": "warmup:0.999"}
    variants = {"full": full, "gpu": gpu, "smoke": {**data, **settings.SMOKE, "eval.classifier_steps": 100}}
    return settings.variant_of(variant, variants, settings.images(), default="full")
