"""A prior on your own volumes: a folder of NIfTI files or DICOM series, by patient, or with train/ and test/.

    python -m experiments.diffusion_mbir.demo --config=configs/diffusion_mbir/volumes.py:ct \
        --config.data.source=FOLDER --config.data.holdout=0.2 --workdir=runs/ct

Variants: ``ct`` (-1000 .. 1000 HU), ``mr`` (set ``--config.data.value_range="(0,HIGH)"``; accelerations 4 and
8), both at 64x64 (``--config.data.size``); ``full`` (CT at 256x256, for an accelerator).
"""

from ml_collections import ConfigDict

from configs.diffusion_mbir import anatomy
from experiments.diffusion_mbir import settings


def get_config(variant: str = "ct") -> ConfigDict:
    """The configuration of a variant."""
    own = {"data.source": "volumes", "data.axis": "axial", "data.preload": True, "data.flip": True}
    ct = {**own, "data.value_range": (-1000.0, 1000.0), "scans": anatomy.CT}
    mr = {
        **own,
        "modality": "mr",
        "data.value_range": (0.0, 1000.0),
        "scans": {"mri4": settings.MRI_4, "mri8": settings.MRI_8},
    }
    full = {**anatomy.FULL, **ct, "data.size": 256}
    return settings.variant_of(variant, {"ct": ct, "mr": mr, "full": full}, default="ct")
