"""A prior on slices of procedural torsos, and held-out torsos from 8, 4 and 2 views, 90 degrees, and MRI x4.

    python -m experiments.diffusion_mbir.demo --workdir=runs/mbir      # training, then evaluation
    python -m experiments.main --config=configs/diffusion_mbir/anatomy.py:demo --workdir=DIR --mode=train

Variants: ``demo`` (2 cores), ``smoke`` (seconds), ``full`` (an accelerator: the paper's size, 256x256).
"""

from ml_collections import ConfigDict

from experiments.diffusion_mbir import settings

CT = {
    "sparse8": settings.SPARSE_8,
    "sparse4": settings.SPARSE_4,
    "sparse2": settings.SPARSE_2,
    "limited90": settings.LIMITED,
}
ALL = {**CT, "mri4": settings.MRI_4}
FULL = {
    "data.size": 256,
    "model": {
        **settings.UNET_64,
        "channels": 128,
        "channel_multipliers": (1, 1, 2, 2, 4),
        "blocks_per_level": 2,
        "attention_levels": (False, False, False, True, True),
        "heads": 4,
        "resample": "pool",
        "scale_shift": True,
        "dtype": "bfloat16",
    },
    "train.num_steps": 100_000,
    "train.batch_size": 64,
    "train.checkpoint_every": 5000,
    "train.optimizer.learning_rate": 2e-4,
    "train.optimizer.warmup_steps": 5000,
    "scans": ALL,
    "methods": {"dds": {}, "mbir": {}},
    "reconstruct.chunk": 32,
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "cpu_devices": 2,
        "data.volumes": 96,
        "train.num_steps": 1300,
        "train.checkpoint_every": 325,
        "methods": {"dds": {"steps": 30}},
        "scans": ALL,
    }
    smoke = {
        "data.volumes": 2,
        "data.size": 16,
        "model": {**settings.UNET_64, "channels": 8, "channel_multipliers": (1, 2)},
        "train.num_steps": 10,
        "train.batch_size": 8,
        "train.log_every": 5,
        "train.checkpoint_every": 5,
        "train.optimizer.warmup_steps": 2,
        "sample.n": 4,
        "sample.batch_size": 4,
        "scans": {"sparse4": settings.SPARSE_4, "mri4": settings.MRI_4},
        "methods": {"dds": {"steps": 3}},
        "reconstruct.volumes": 1,
        "reconstruct.tv_weights": (1e-3, 1e-2),
    }
    full = {**FULL, "data.volumes": 400}
    return settings.variant_of(variant, {"demo": demo, "smoke": smoke, "full": full})
