"""What the configurations of several experiments share: fields with their defaults, and variants."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from diffax import checks

RUN = {
    "seed": 0,
    "mesh": "-1x1x1",  # data x fsdp x tensor; -1: all devices that the others leave
    "cpu_devices": 1,  # on a CPU, cores (or threads of one) that serve as devices
}
IMAGES = {
    # a name ("digits", "mnist", "cifar10", "stacked_digits", "stacked_mnist", "torsos"), a folder of
    # images or volumes, a .npz, .parquet, .nii.gz, or tfds:NAME
    "source": "digits",
    "data_dir": "",  # where the files of a named source are
    "holdout": 0.0,  # share kept for evaluation, of data without splits of its own
    "size": 0,  # side that a folder's images are cropped and resized to
    "channels": 0,  # of a folder's images: 1 or 3
    "value_range": (),  # (low, high) that maps to [-1, 1]: a window in HU, or of deep images
    "axis": "",  # of a volume's slices: axial, coronal or sagittal
    "field_mm": 0.0,  # side of the square that is cut out of each slice
    "min_content": 0.0,  # share of a slice above the low end, below which it is left out
    "preload": False,  # decode everything now
    "threads": 0,  # that read ahead
    "workers": 0,  # processes that read ahead
    "flip": False,
    "volumes": 0,  # torsos that are drawn, of the named source
}
CHECKPOINTS = {
    "keep": 2,  # newest checkpoints
    "keep_every": 0,  # steps; those at its multiples are kept too
    "best": "",  # a metric, such as valid_loss; the best checkpoint by it is kept too
}

SHORT_RUN = {  # the optimiser of a small network that has a thousand steps
    "learning_rate": 4e-3,
    "warmup_steps": 50,
    "schedule": "cosine",
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "beta2": 0.98,
}


def variant_of(
    name: str | None,
    variants: Mapping[str, Mapping[str, Any]],
    base: ConfigDict,
    *,
    default: str = "demo",
    whole: Sequence[str] = (),
) -> ConfigDict:
    """The base with a variant's changes: a mapping from dotted names to values.

    Fields named in ``whole`` are replaced as a whole, not field by field. Raises ``ValueError`` for a variant
    that does not exist.
    """
    name = name or default
    checks.require_one_of("variant", name, variants)
    for dotted, value in variants[name].items():
        if dotted in whole:
            *parents, last = dotted.split(".")
            functools.reduce(getattr, parents, base)[last] = ConfigDict(value)
        else:
            base.update_from_flattened_dict({dotted: value})
    return base
