"""The configurations' common ground: a prior on slices, and the scans that it is judged by."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults
from experiments.medical_survey import settings

UNET_64 = {
    **settings.UNET_8,
    "channels": 32,
    "channel_multipliers": (1, 2, 2, 2),
    "attention_levels": (),
    "dropout": 0.0,
    "patch_size": 2,
}
SPARSE_8 = {"task": "sparse_view", "views": 8}
SPARSE_4 = {"task": "sparse_view", "views": 4}
SPARSE_2 = {"task": "sparse_view", "views": 2}
LIMITED = {"task": "limited_angle", "views": 60, "arc": 90.0}
MRI_4 = {"task": "mri", "acceleration": 4.0}
MRI_8 = {"task": "mri", "acceleration": 8.0, "centre": 0.04}


def base() -> ConfigDict:
    """Every field with its default: EDM's training on procedural torsos, then reconstruction of others."""
    config = settings.base()
    config.experiment = "diffusion_mbir"
    config.modality = "ct"
    config.start = ""  # the folder of a run whose averaged network this one starts from
    config.model = ConfigDict(UNET_64)
    config.data.update({"source": "torsos", "size": 64, "classes": 0, "levels": 256})
    config.loss.times = ConfigDict({"name": "log_normal", "mean": -0.7, "std": 1.4})
    config.train.update({"num_steps": 2000, "batch_size": 16})
    config.train.optimizer.update({"learning_rate": 2e-3})
    config.solvers = ConfigDict({"heun": settings.solver("SDE", settings.EDM, "heun", "karras", 18)})
    config.sample.update({"n": 40, "batch_size": 40})
    config.scans = ConfigDict()  # name: arguments of scan.make_geometry
    config.methods = ConfigDict({"dds": {}})  # beside FBP and ADMM-TV: name, changed settings
    config.reconstruct = ConfigDict(
        {
            "noise": 0.0,
            "volumes": 2,  # held-out ones
            "ablate_z": ("sparse4", "limited90"),  # scans in which the first method also runs without it
            "tv_weights": (
                3e-5,
                1e-4,
                3e-4,
                1e-3,
                3e-3,
                1e-2,
                3e-2,
            ),  # of which ADMM-TV has the best by the truth
            "chunk": 64,
            "seed": 0,
        }
    )
    return config


def variant_of(
    name: str | None, variants: Mapping[str, Mapping[str, Any]], default: str = "demo"
) -> ConfigDict:
    """The base with a variant's changes (:func:`experiments.defaults.variant_of`)."""
    whole = ("process", "model", "solvers", "scans", "methods")
    return defaults.variant_of(name, variants, base(), default=default, whole=whole)
