"""Navigation around a disc, eight goals, two ways each: a policy without a simulator.

    python -m experiments.mode_policy.demo --config=configs/mode_policy/navigation.py:demo \
        --workdir=runs/navigation

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (the paper's network and optimiser).
"""

from ml_collections import ConfigDict

from experiments.mode_policy import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    return settings.variant_of(variant)
