"""The configurations' common ground: every field with its default."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffax import checks


def base() -> ConfigDict:
    """25 Gaussians with a standard deviation of 0.1, four steps, small perceptrons."""
    return ConfigDict(
        {
            "experiment": "ddgan",
            "seed": 0,
            "mesh": "-1x1x1",  # data x fsdp x tensor; -1: all devices that the others leave
            "cpu_devices": 1,
            "steps": 4,  # T
            "latent": 8,  # dimensions of z; 0 for none
            "objective": "gan",  # or "l2": regression on x0, the baseline
            "data": {"side": 5, "std": 0.1},  # a grid of side x side Gaussians, 2 apart, before scaling
            "generator": {"width": 128, "layers": 3},
            "discriminator": {"width": 128, "layers": 3},
            "r1": {"gamma": 0.02, "lazy": 1, "rescale": True},
            "train": {
                "num_steps": 60_000,
                "batch_size": 256,
                "ema": ("warmup:0.999",),
                "log_every": 500,
                "checkpoint_every": 10_000,
                "keep": 2,
                "keep_every": 0,
                "best": "",
                "optimizer": {
                    "learning_rate": 1e-3,
                    "schedule": "cosine",
                    "clip_norm": 0.0,
                    "beta1": 0.5,
                    "beta2": 0.9,
                },
            },
            "sample": {"n": 10_000, "batch_size": 2000, "ema": "warmup:0.999"},
            "eval": {"n": 10_000, "batch_size": 2000, "spread_n": 256},
        }
    )


def variant_of(
    name: str | None, variants: Mapping[str, Mapping[str, Any]], default: str = "demo"
) -> ConfigDict:
    """The base with a variant's changes, a mapping from dotted names to values."""
    name = name or default
    checks.require_one_of("variant", name, variants)
    config = base()
    config.update_from_flattened_dict(dict(variants[name]))
    return config
