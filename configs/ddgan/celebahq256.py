"""CelebA-HQ at 256 x 256, or any other folder of images, in two steps.

    python -m experiments.main --config=configs/ddgan/celebahq256.py:full --workdir=runs/celebahq \
        --mode=train --config.data.source=FOLDER

``FOLDER`` holds PNG, JPEG or TIFF files, cropped to squares and resized. Published (Xiao et al. 2022, table
4): Fréchet distance 7.64. Variants: ``full`` (the paper's: 750,000 steps of 32; R1 1.0 in its appendix, 2.0
in its code), ``gpu`` (25 minutes on one large GPU), ``smoke`` (seconds on a CPU). Not trained by us.
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    full = {
        **settings.FOLDER_256,
        "steps": 2,
        "r1.gamma": 1.0,
        "train.batch_size": 32,
        "train.num_steps": 750_000,
        "train.optimizer.learning_rate": 1.6e-4,
        "train.discriminator_rate": 1e-4,
    }
    gpu = {**full, "train.num_steps": 4000, "train.ema": ("warmup:0.99",), "sample.ema": "warmup:0.99"}
    smoke = {**settings.FOLDER_256, **settings.SMOKE, "steps": 2, "data.size": 32}
    variants = {"full": full, "gpu": gpu, "smoke": smoke}
    return settings.variant_of(variant, variants, settings.images(), default="full")
