"""A compressed checkpoint trained further on text.

    python -m experiments.modegpt.demo --config=configs/modegpt/recover.py:demo --workdir=runs/recover \
        --config.checkpoint=DIR --config.data.files=FILE,

``--config.lora.rank=8`` trains low-rank changes alone. The result is in ``WORKDIR/model``.
"""

from ml_collections import ConfigDict

from experiments.modegpt import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    config = settings.variant_of(variant)
    config.train.optimizer.learning_rate = 5e-4
    return config
