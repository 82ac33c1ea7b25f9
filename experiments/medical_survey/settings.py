"""The configurations' common ground: one function that fills in every field, and the solvers by name."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults

TABLE = {"name": "FromTable", "table": "linear", "n": 1000}
VE = {"name": "VE", "sigma_min": 0.02, "sigma_max": 20.0}
# the largest noise is about the largest distance between two digits (Song & Ermon 2020, technique 1)
NCSN = {"name": "VE", "sigma_min": 0.03, "sigma_max": 8.0}
VP = {"name": "VP", "beta_min": 0.1, "beta_max": 20.0}
SUB_VP = {"name": "SubVP", "beta_min": 0.1, "beta_max": 20.0}
EDM = {"name": "EDM", "t_min": 0.002, "t_max": 80.0}

UNET_8 = {
    "name": "UNet",
    "channels": 32,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (False, False),
    "middle_attention": True,
    "heads": 1,
    "dropout": 0.1,
    "patch_size": 1,
    "resample": "conv",
    "scale_shift": False,
    "time_embedding": "fourier",
    "time_scale": 1.0,
    "dtype": "float32",
    "remat": False,
}
TINY = {
    **UNET_8,
    "channels": 8,
    "channel_multipliers": (1,),
    "attention_levels": (False,),
    "middle_attention": False,
}


def solver(framework: str, process: Mapping[str, Any], sampler: str, grid: str, steps: int) -> dict[str, Any]:
    """One entry of ``config.solvers``."""
    return {
        "framework": framework,
        "process": dict(process),
        "sampler": sampler,
        "grid": grid,
        "steps": steps,
    }


def base() -> ConfigDict:
    """Every field with its default: EDM's training on the embedded digits."""
    return ConfigDict(
        {
            "experiment": "medical_survey",
            "framework": "sde",
            **defaults.RUN,
            "process": dict(EDM),
            "model": dict(UNET_8),
            "output": "F",
            "sigma_data": 0.5,
            "time_input": "c_noise",
            "data": {
                **defaults.IMAGES,
                "classes": 10,  # of the labels; 0 to ignore them
                "levels": 17,  # grey levels, for bits per dimension
            },
            "loss": {
                "times": {"name": "log_normal", "mean": -1.2, "std": 1.2},
                "weighting": {"name": "edm", "sigma_data": 0.5},
                "drop_labels": 0.1,
            },
            "train": {
                "num_steps": 2000,
                "batch_size": 64,
                "accumulate": 1,
                "ema": ("warmup:0.999",),
                "log_every": 50,
                "checkpoint_every": 500,
                **defaults.CHECKPOINTS,
                "validate_n": 0,  # held-out images that valid_loss is measured on at every checkpoint
                "optimizer": {
                    "learning_rate": 1e-3,
                    "warmup_steps": 100,
                    "schedule": "cosine",
                    "weight_decay": 0.0,
                    "clip_norm": 1.0,
                },
            },
            "sample": {
                "n": 100,
                "batch_size": 120,
                "guidance": 1.0,
                "threshold": "none",
                "ema": "warmup:0.999",
                "per_file": 10_000,  # samples in one .npz file
                "png": False,  # also one PNG a sample
            },
            "eval": {"n": 360, "batch_size": 120, "likelihood_n": 0, "classifier_steps": 600},
            "solvers": {},
        }
    )


def variant_of(
    name: str | None, variants: Mapping[str, Mapping[str, Any]], default: str = "demo"
) -> ConfigDict:
    """The base with a variant's changes (:func:`experiments.defaults.variant_of`)."""
    whole = ("process", "model", "solvers")
    return defaults.variant_of(name, variants, base(), default=default, whole=whole)


def smoke(settings: Mapping[str, Any], solvers: Mapping[str, Any]) -> dict[str, Any]:
    """A run of seconds with every part in it: a tiny network, few steps and samples."""
    return {
        **settings,
        "model": dict(TINY),
        "solvers": solvers,
        "train.num_steps": 20,
        "train.log_every": 5,
        "train.checkpoint_every": 10,
        "train.optimizer.warmup_steps": 5,
        "sample.n": 10,
        "sample.batch_size": 20,
        "eval.n": 80,
        "eval.batch_size": 20,
        "eval.classifier_steps": 200,
    }
