"""A made-up world with a policy: prompts, answers, outcomes, report, with nothing harmful and no server.

    python -m experiments.sage_rt.generate --config=configs/sage_rt/toyland.py:demo --workdir=runs/sage_rt
    python -m experiments.sage_rt.evaluate --workdir=runs/sage_rt

Variants: ``demo``, ``smoke`` (seconds), ``paper`` (51,000 prompts and more).
"""

from ml_collections import ConfigDict

from experiments.sage_rt import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    return settings.variant_of(variant)
