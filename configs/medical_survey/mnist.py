"""MNIST from a local folder (``mnist.npz`` in Keras' layout), all three frameworks from one network.

    python -m experiments.main --config=configs/medical_survey/mnist.py:full --workdir=runs/mnist \
        --config.data.data_dir=FOLDER

Variants: ``full`` (accelerator, bfloat16), ``smoke`` (seconds on a CPU).
"""

from ml_collections import ConfigDict

from experiments.medical_survey import settings

DATA = {"data.source": "mnist", "data.classes": 10, "data.levels": 256, "data.data_dir": "."}
UNET_28 = {
    **settings.UNET_8,
    "channels": 64,
    "channel_multipliers": (1, 2, 2),
    "blocks_per_level": 2,
    "attention_levels": (False, False, True),
    "resample": "pool",
    "scale_shift": True,
    "heads": 4,
    "dtype": "bfloat16",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    solvers = {
        "ddpm": settings.solver("DDPM", settings.TABLE, "ddpm", "trailing", 250),
        "ncsn": settings.solver("NCSN", settings.VE, "annealed_langevin", "log_snr", 100),
        "sde-heun": settings.solver("SDE", settings.EDM, "heun", "karras", 18),
        "sde-pc": settings.solver("SDE", settings.VE, "predictor_corrector", "log_snr", 250),
    }
    full = {
        **DATA,
        "model": UNET_28,
        "solvers": solvers,
        "train.num_steps": 50_000,
        "train.batch_size": 256,
        "train.checkpoint_every": 5000,
        "train.optimizer.learning_rate": 4e-4,
        "train.optimizer.warmup_steps": 1000,
        "train.ema": ("warmup:0.9995",),
        "sample.ema": "warmup:0.9995",
        "eval.n": 10_000,
        "eval.batch_size": 1000,
        "eval.classifier_steps": 3000,
        "eval.likelihood_n": 500,
    }
    few = {"sde-heun": settings.solver("SDE", settings.EDM, "heun", "karras", 3)}
    variants = {
        "full": full,
        "smoke": {
            **settings.smoke(DATA, few),
            "model": {**settings.TINY, "patch_size": 2},
        },
    }
    return settings.variant_of(variant, variants, default="full")
