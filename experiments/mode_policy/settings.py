"""Every field of a policy's configuration with its default, and the variants that all suites have."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults

MODEL = {
    "width": 64,
    "depth": 2,
    "heads": 4,
    "experts": 4,
    "top_k": 2,
    "mlp_ratio": 1.5,
    "shared_expert": False,
    "router": "noise",
    "noise_token": True,
    "noise_conditioning": "add",
    "residual": "prenorm",
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "image_encoder": "resnet18",
    "image_norm": "group",
    "dtype": "float32",
}
FULL = {  # the paper's size and optimiser
    "model.width": 1024,
    "model.depth": 12,
    "model.heads": 8,
    "model.mlp_ratio": 4.0,
    "model.attention_dropout": 0.3,
    "model.dropout": 0.1,
    "model.dtype": "bfloat16",
    "train.batch_size": 512,
    "train.num_steps": 30_000,
    "train.ema": ("warmup:0.9999",),
    "train.optimizer.learning_rate": 1e-4,
    "train.optimizer.weight_decay": 0.05,
    "train.optimizer.beta2": 0.95,
    "train.optimizer.warmup_steps": 900,
    "sample.ema": "warmup:0.9999",
}
SMOKE = {
    "model.width": 16,
    "model.heads": 2,
    "data.per_task": 4,
    "train.num_steps": 6,
    "train.batch_size": 16,
    "train.log_every": 3,
    "train.checkpoint_every": 3,
    "train.optimizer.warmup_steps": 2,
    "sample.steps": 2,
    "eval.episodes": 2,
}


def base() -> ConfigDict:
    """The defaults."""
    return ConfigDict(
        {
            **defaults.RUN,
            "experiment": "mode_policy",
            "suite": "navigation",
            # beside "model", on the same batches: "dense" (as many active weights), "wide" (as many weights),
            # "regression" (dense, the mean of actions), "no_goal" (as "model", but not told what to do)
            "baselines": ("regression",),
            "tasks": "mt10",  # of Meta-World: or "mt50", or names
            "goal": "one_hot",  # or "sentence", "none", or an .npz file with a vector under each task's name
            "data": {
                "per_task": 60,  # demonstrations
                "horizon": 8,  # actions of an answer
                "history": 1,  # steps that are seen
                "spread": 0.05,  # of where demonstrations of navigation begin
                "file": "",  # of demonstrations: made there (Meta-World), or a user's own (recorded)
                "fields": (),  # of a user's own that are seen; "state" where empty
                "images": (),  # cameras of a user's own, by the names of their fields
                "shift": 4,  # pixels by which images move at most in training
                "holdout": 0.1,  # share of a user's own that is held out
                "noise": 0.3,  # of the arm in every other demonstration of Meta-World
                "seed": 42,  # of demonstrations of Meta-World
            },
            "process": {"name": "EDM", "t_min": 0.001, "t_max": 80.0},
            "sigma_data": 0.5,
            # .safetensors of a torchvision ResNet for the cameras' encoders, with model.image_norm "frozen"
            "image_weights": "",
            "normaliser": {"state": "mean_std", "action": "min_max"},
            "model": MODEL,
            "loss": {
                "times": {"name": "log_logistic"},
                "weighting": {"name": "edm", "sigma_data": 0.5},
                "balance": 0.01,  # of experts
                "drop_goal": 0.0,  # share of samples
            },
            "train": {
                "num_steps": 3000,
                "batch_size": 128,
                "accumulate": 1,
                "ema": ("warmup:0.995",),
                "log_every": 100,
                "checkpoint_every": 1000,
                **defaults.CHECKPOINTS,
                "optimizer": {**defaults.SHORT_RUN, "learning_rate": 2e-3},
            },
            "sample": {
                "ema": "warmup:0.995",
                "sampler": "ddim",
                "grid": "log_snr",
                "steps": 10,
                "execute": 4,  # actions of an answer that are run before the next
                "guidance": 1.0,
                "n": 64,
            },
            "eval": {
                "episodes": 64,  # of each task
                "spreads": (0.0, 0.05),  # of navigation's starts
                "seed": 7,  # of Meta-World's episodes
                "steps": 500,  # of Meta-World, after which an episode has failed
                "windows": 512,  # of held-out recordings
            },
        }
    )


def variant_of(name: str | None, **more: Mapping[str, Any]) -> ConfigDict:
    """The defaults under a variant: "smoke", "demo", "full" or one that is given."""
    demo = {"cpu_devices": 2, **more.get("demo", {})}
    common: dict[str, Mapping[str, Any]] = {"demo": {}, "smoke": {**SMOKE, "cpu_devices": 1}, "full": FULL}
    variants = {key: {**demo, **common.get(key, {}), **more.get(key, {})} for key in {*common, *more}}
    return defaults.variant_of(name, variants, base(), whole=("process", "loss.weighting"))
