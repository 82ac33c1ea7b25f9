"""A small decoder trained on what Python's standard library says of itself, then compressed in every way.

    python -m experiments.modegpt.demo --workdir=runs/modegpt

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (300 M parameters, your own text in
``--config.data.files``).
"""

from ml_collections import ConfigDict

from experiments.modegpt import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    return settings.variant_of(variant)
