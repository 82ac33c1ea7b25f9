"""LSUN Church at 256 x 256, or any other folder of images, in four steps; strokes to images.

    python -m experiments.main --config=configs/ddgan/lsun_church256.py:full --workdir=runs/church \
        --mode=train --config.data.source=FOLDER
    python -m experiments.ddgan.stroke --image=drawing.png --workdir=runs/church --out=church.png

``FOLDER`` holds PNG, JPEG or TIFF files, cropped to squares and resized. Published (Xiao et al. 2022, table
5): Fréchet distance 5.25. Variants: ``full`` (the paper's: 600,000 steps of 64; rate of G 2e-4 in its
appendix, 1.6e-4 in its code), ``gpu`` (25 minutes on one large GPU), ``smoke`` (seconds on a CPU). Not
trained by us.
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    full = {
        **settings.FOLDER_256,
        "r1.gamma": 1.0,
        "train.batch_size": 64,
        "train.num_steps": 600_000,
        "train.ema": ("warmup:0.999",),
        "train.optimizer.learning_rate": 2e-4,
        "train.discriminator_rate": 1e-4,
        "sample.ema": "warmup:0.999",
    }
    gpu = {**full, "train.num_steps": 2500, "train.ema": ("warmup:0.99",), "sample.ema": "warmup:0.99"}
    smoke = {**settings.FOLDER_256, **settings.SMOKE, "data.size": 32}
    variants = {"full": full, "gpu": gpu, "smoke": smoke}
    return settings.variant_of(variant, variants, settings.images(), default="full")
