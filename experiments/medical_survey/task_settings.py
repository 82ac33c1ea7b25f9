"""The applications' common ground: every field with its default, and the variants that all of them have."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffax import checks
from experiments import defaults

UNET = {
    "name": "UNet",
    "channels": 32,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (),
    "middle_attention": True,
    "heads": 2,
    "dropout": 0.0,
    "patch_size": 2,
    "resample": "conv",
    "scale_shift": True,
    "time_embedding": "sinusoidal",
    "dtype": "float32",
    "remat": False,
}
FULL_UNET = UNET | {
    "channels": 128,
    "channel_multipliers": (1, 2, 2, 2),
    "blocks_per_level": 2,
    "attention_levels": (False, False, True, False),
    "heads": 4,
    "patch_size": 1,
    "resample": "pool",
    "dtype": "bfloat16",
}


def base() -> ConfigDict:
    """Every field with its default: slices of the embedded heads, 32 x 32."""
    return ConfigDict(
        {
            **defaults.RUN,
            "experiment": "medical_survey",
            "task": "generation",
            "classifier": False,  # learn a classifier of noisy images beside the network of images
            "pairs": "paired",  # of translation: or "unpaired"
            "supervision": "clean",  # of denoising: "clean" images, or pairs of noisy ones ("noisy")
            "drop_facts": 0.2,  # share of a report's facts that training leaves out
            "data": {
                "source": "phantoms",  # or a folder with a sub-folder for each field (tasks/folders.py)
                "image": "B",  # the field that tasks of one image use
                "target": "B",  # what translation makes of the image
                "inputs": ("A", "B"),  # what segmentation sees
                "classes": 2,  # of the labels; 0 to ignore them
                "size": 32,
                "dims": 2,
                "heads": 3000,  # phantoms to train on
                "lesion_prob": 0.5,
                "noise": 0.015,  # of the phantoms, as a share of the full range of greys
                "holdout": 0.2,  # share of a folder's files, or of a single volume's slices
                "min_content": 0.0,  # share of a slice that is not black, below which it is left out
                "value_range": (),  # (low, high) of a folder's volumes that maps to [-1, 1]
            },
            "process": {"name": "Cosine", "t_max": 1.0},
            "output": "v",
            "time_input": "t",
            "model": UNET,
            "loss": {
                "times": {"name": "stratified"},
                # heads vary by about a quarter of the range: with v's weights, made for a deviation of 1, a
                # thousand steps go to noise and few to where lesions lie and what class they are of
                "weighting": {"name": "edm", "sigma_data": 0.25},
                "drop_labels": 0.1,
            },
            "train": {
                "num_steps": 1100,
                "batch_size": 32,
                "accumulate": 1,
                "ema": ("warmup:0.995",),
                "log_every": 100,
                "checkpoint_every": 300,
                **defaults.CHECKPOINTS,
                "optimizer": dict(defaults.SHORT_RUN),
            },
            "sample": {
                "ema": "warmup:0.995",
                "sampler": "ddim",
                "grid": "uniform",
                "steps": 20,
                "n": 16,
                "prompts": (),
            },
            "eval": {"n": 64},
        }
    )


SMOKE = {
    "model.channels": 8,
    "model.heads": 1,
    "data.size": 16,
    "data.heads": 64,
    "train.num_steps": 6,
    "train.batch_size": 8,
    "train.log_every": 3,
    "train.checkpoint_every": 3,
    "train.optimizer.warmup_steps": 2,
    "sample.steps": 2,
    "sample.n": 4,
    "eval.n": 8,
}
FULL = {
    "model": FULL_UNET,
    "data.size": 256,
    "data.heads": 100_000,
    "train.num_steps": 200_000,
    "train.checkpoint_every": 10_000,
    "train.log_every": 500,
    "train.ema": ("warmup:0.9999",),
    "train.optimizer.learning_rate": 1e-4,
    "train.optimizer.warmup_steps": 2000,
    "train.optimizer.beta2": 0.999,
    "sample.ema": "warmup:0.9999",
    "sample.steps": 50,
}


def variant_of(
    name: str | None, task: str, evaluation: Mapping[str, Any], **more: Mapping[str, Any]
) -> ConfigDict:
    """A task's configuration: its own fields of ``config.eval``, and the variants' changes.

    Keywords are variants; ``demo`` is what the others start from, ``smoke`` and ``full`` are added to the
    common ones. Several may be joined, the later over the earlier: "unpaired,smoke".
    """
    config = base()
    config.task = task
    config.eval.update(evaluation)
    demo = {"cpu_devices": 2, **more.get("demo", {})}
    common: dict[str, Mapping[str, Any]] = {"demo": {}, "smoke": {**SMOKE, "cpu_devices": 1}, "full": FULL}
    variants = {key: {**demo, **common.get(key, {}), **more.get(key, {})} for key in {*common, *more}}
    names = (name or "demo").split(",")
    for each in names:
        checks.require_one_of("variant", each, variants)
    chosen = {key: value for each in names for key, value in variants[each].items()}
    return defaults.variant_of(
        "chosen", {"chosen": chosen}, config, whole=("process", "model", "loss.weighting")
    )
