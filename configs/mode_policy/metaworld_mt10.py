"""Ten tasks of Meta-World: demonstrations by scripted experts, one policy for all, rollouts on other goals.

    pip install "diffax[metaworld]"
    python -m experiments.mode_policy.demo --config=configs/mode_policy/metaworld_mt10.py:demo \
        --workdir=runs/mt10

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (the paper's network and optimiser).
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.mode_policy import settings

DEMO: dict[str, Any] = {
    "suite": "metaworld",
    "tasks": "mt10",
    "baselines": ("dense", "no_goal", "regression"),
    "data.file": "runs/demonstrations/metaworld_mt10.npz",
    "data.per_task": 50,
    "data.horizon": 10,
    "train.num_steps": 8000,
    "train.batch_size": 64,
    "train.optimizer.learning_rate": 1e-3,
    "train.checkpoint_every": 2000,
    "sample.execute": 5,
    "eval.episodes": 10,
}
SMOKE: dict[str, Any] = {
    "tasks": "reach,window-close",
    "baselines": ("regression",),
    "data.file": "runs/demonstrations/metaworld_smoke.npz",
    "data.per_task": 2,
    "eval.episodes": 1,
    "eval.steps": 60,
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    return settings.variant_of(variant, demo=DEMO, smoke=SMOKE)
