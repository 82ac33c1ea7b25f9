"""All fifty tasks of Meta-World by one policy, beside dense ones of equal active and of equal size.

    pip install "diffax[metaworld]"
    python -m experiments.mode_policy.demo --config=configs/mode_policy/metaworld_mt50.py:demo \
        --workdir=runs/mt50

Variants: ``demo`` (an hour or two on 2 cores), ``smoke`` (seconds), ``full`` (the paper's network and
optimiser).
"""

import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.mode_policy import settings

TEN = runpy.run_path(str(Path(__file__).with_name("metaworld_mt10.py")))
DEMO: dict[str, Any] = TEN["DEMO"] | {
    "tasks": "mt50",
    "baselines": ("dense", "wide"),
    "data.file": "runs/demonstrations/metaworld_mt50.npz",
    "data.per_task": 20,
    "train.num_steps": 20_000,
    "train.batch_size": 128,
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    return settings.variant_of(variant, demo=DEMO, smoke=TEN["SMOKE"])
