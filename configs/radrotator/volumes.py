"""Your own CT volumes: a folder of NIfTI files or DICOM series, by patient, or with train/ and test/.

    python -m experiments.radrotator.demo --config=configs/radrotator/volumes.py:ct \
        --config.data.source=FOLDER --config.data.holdout=0.2 --workdir=runs/ct

Every step bends the volumes it sees and renders them from angles of its own. Variants: ``ct`` (48x48 pixels),
``full`` (an accelerator: the paper's network, 256x256).
"""

from ml_collections import ConfigDict

from configs.radrotator import pelvis
from experiments.radrotator import settings


def get_config(variant: str = "ct") -> ConfigDict:
    """The configuration of a variant."""
    own = {"data.source": "volumes", "data.pairs": 8, "arm.field_mm": 340.0}
    ct = {
        **own,
        "arm.size": 48,
        "train.num_steps": 6000,
        "train.checkpoint_every": 500,
        "train.optimizer.learning_rate": 1e-3,
        "cpu_devices": 2,
    }
    full = {**pelvis.FULL, **own, "data.size": 256}
    return settings.variant_of(variant, {"ct": ct, "full": full}, default="ct")
