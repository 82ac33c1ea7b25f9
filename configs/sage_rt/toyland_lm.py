"""A small decoder that learns to answer, and to decline, in Toyland; or a checkpoint aligned by pairs.

    python -m experiments.main --config=configs/sage_rt/toyland_lm.py:demo --workdir=runs/toyland_lm
    python -m experiments.main --config=configs/sage_rt/toyland_lm.py:demo --workdir=runs/aligned \
        --config.checkpoint=DIR --config.align.pairs=EXPORT --config.align.loss=simpo|dpo

``--mode=eval`` writes the checkpoint as ``WORKDIR/model``. Variants: ``demo``, ``smoke``.
"""

from ml_collections import ConfigDict

from experiments.sage_rt import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    return settings.lm_variant_of(variant)
