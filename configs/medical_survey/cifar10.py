"""CIFAR-10 from a local folder (``cifar10_train.parquet``, ``cifar10_test.parquet``).

    python -m experiments.main --config=configs/medical_survey/cifar10.py:full --workdir=runs/cifar10 \
        --config.data.data_dir=FOLDER

Variants: ``full`` (a DDPM++-sized U-Net with EDM's training, for accelerators; Karras et al. 2022),
``ddpm`` (Ho et al. 2020's U-Net and schedule), ``smoke`` (seconds on a CPU).
"""

from ml_collections import ConfigDict

from experiments.medical_survey import settings

DATA = {
    "data.source": "cifar10",
    "data.classes": 10,
    "data.levels": 256,
    "data.data_dir": ".",
    "data.flip": True,
}
DDPM_UNET = {
    "name": "UNet",
    "channels": 128,
    "channel_multipliers": (1, 2, 2, 2),
    "blocks_per_level": 2,
    "attention_levels": (False, True, False, False),
    "heads": 1,
    "dropout": 0.1,
    "dtype": "bfloat16",
}
EDM_UNET = {
    **DDPM_UNET,
    "channel_multipliers": (2, 2, 2),
    "blocks_per_level": 4,
    "attention_levels": (False, True, False),
    "dropout": 0.13,
    "resample": "pool",
    "scale_shift": True,
    "rescale_skip": True,
    "time_embedding": "sinusoidal",
}
TRAIN = {
    "train.batch_size": 512,
    "train.num_steps": 400_000,
    "train.checkpoint_every": 5000,
    "train.log_every": 200,
    "train.ema": ("warmup:0.9999",),
    "train.optimizer.learning_rate": 1e-3,
    "train.optimizer.warmup_steps": 20_000,
    "train.optimizer.schedule": "constant",
    "sample.ema": "warmup:0.9999",
    "eval.n": 10_000,
    "eval.batch_size": 500,
    "eval.classifier_steps": 6000,
    "eval.likelihood_n": 500,
}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    full = {
        **DATA,
        **TRAIN,
        "model": EDM_UNET,
        "solvers": {
            "sde-heun": settings.solver("SDE", settings.EDM, "heun", "karras", 18),
            "ddim": settings.solver("DDPM", settings.TABLE, "ddim", "trailing", 50),
            "sde-pc": settings.solver("SDE", settings.VE, "predictor_corrector", "log_snr", 500),
        },
    }
    ddpm = {
        **DATA,
        **TRAIN,
        "framework": "ddpm",
        "process": settings.TABLE,
        "model": DDPM_UNET,
        "output": "eps",
        "sigma_data": 0.0,
        "time_input": "t",
        "loss.times": {"name": "stratified"},
        "loss.weighting": {"name": "simple", "target": "eps"},
        "loss.drop_labels": 0.1,
        "train.batch_size": 128,
        "train.num_steps": 800_000,
        "train.optimizer.learning_rate": 2e-4,
        "train.optimizer.warmup_steps": 5000,
        "sample.threshold": "static",
        "solvers": {"ddpm": settings.solver("DDPM", settings.TABLE, "ddpm", "trailing", 1000)},
    }
    few = {"sde-heun": settings.solver("SDE", settings.EDM, "heun", "karras", 3)}
    tiny = {**settings.TINY, "patch_size": 2}
    variants = {"full": full, "ddpm": ddpm, "smoke": {**settings.smoke(DATA, few), "model": tiny}}
    return settings.variant_of(variant, variants, default="full")
