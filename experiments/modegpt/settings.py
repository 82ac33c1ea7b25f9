"""Every field of a decoder's training with its default, and the variants."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults
from experiments.modegpt.tables import DEFAULT, RATIOS

SMOKE = {
    "data.context": 32,
    "data.vocabulary": 300,
    "model.width": 16,
    "model.layers": 2,
    "model.heads": 2,
    "model.kv_heads": 1,
    "model.hidden": 32,
    "train.num_steps": 4,
    "train.batch_size": 8,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "compress.methods": ("modegpt", "svd"),
    "compress.ratios": (0.3,),
    "compress.sequences": 8,
    "eval.chunks": 8,
    "sample.n": 2,
    "sample.steps": 16,
}
FULL = {
    "data.context": 1024,
    "data.vocabulary": 32_000,
    "model.width": 1024,
    "model.layers": 24,
    "model.heads": 16,
    "model.kv_heads": 8,
    "model.head_size": 64,
    "model.hidden": 2816,
    "model.dtype": "bfloat16",
    "train.num_steps": 100_000,
    "train.batch_size": 256,
    "train.checkpoint_every": 2000,
    "train.optimizer.learning_rate": 3e-4,
    "train.optimizer.warmup_steps": 2000,
    "train.optimizer.weight_decay": 0.1,
    "train.optimizer.beta2": 0.95,
    "compress.sequences": 128,
}


def base() -> ConfigDict:
    """The defaults."""
    return ConfigDict(
        {
            **defaults.RUN,
            "experiment": "modegpt",
            "data": {
                "files": (),  # text to train on; what Python's standard library says of itself where empty
                "held_out": (),  # text to measure on; a tenth of the other where empty
                "context": 128,  # tokens of a chunk
                "vocabulary": 512,  # of the tokenizer that is trained on the text
            },
            # of a decoder from scratch; or the folder of a checkpoint to go on from
            "checkpoint": "",
            "model": {
                "width": 96,
                "layers": 4,
                "heads": 6,
                "kv_heads": 3,
                "head_size": 16,
                "hidden": 256,
                "tied": True,
                "dtype": "float32",
            },
            "lora": {"rank": 0, "scale": 16.0},  # with a checkpoint: train low-rank changes alone
            "train": {
                "num_steps": 600,
                "batch_size": 32,
                "accumulate": 1,
                "log_every": 50,
                "checkpoint_every": 500,
                **defaults.CHECKPOINTS,
                "optimizer": {**defaults.SHORT_RUN, "learning_rate": 4e-3},
            },
            "compress": {"methods": DEFAULT, "ratios": RATIOS, "sequences": 48, "ratio": 0.3},
            "eval": {"chunks": 64},
            "sample": {"n": 4, "steps": 100, "temperature": 0.8, "prompt": "Return"},
        }
    )


def variant_of(name: str | None, **more: Mapping[str, Any]) -> ConfigDict:
    """The defaults under a variant: "smoke", "demo" or "full"."""
    demo = {"cpu_devices": 2, **more.get("demo", {})}
    variants = {"demo": demo, "smoke": {**demo, **SMOKE, "cpu_devices": 1}, "full": {**FULL}}
    return defaults.variant_of(name, variants, base())
