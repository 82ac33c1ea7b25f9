"""Three embedded 8 x 8 digits as the channels of an image: 1,000 modes, and a classifier that counts them.

python -m experiments.main --config=configs/ddgan/stacked_digits.py:demo --workdir=runs/stacked --mode=train
python -m experiments.main --config=configs/ddgan/stacked_digits.py:demo --workdir=runs/stacked --mode=eval
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "cpu_devices": 2,
        "train.num_steps": 4000,
        "train.batch_size": 64,
        "train.log_every": 100,
        "train.checkpoint_every": 1000,
    }
    return settings.variant_of(variant, {"demo": demo}, settings.images())
