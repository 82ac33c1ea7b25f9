"""The configurations' common ground: every field with its default."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults
from experiments.f_distill.settings import METHOD

UNET = {
    "name": "UNet",
    "channels": 32,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (False, True),
    "middle_attention": True,
    "heads": 2,
    "dropout": 0.0,
    "patch_size": 2,
    "resample": "conv",
    "scale_shift": True,
    "time_embedding": "sinusoidal",
    "dtype": "float32",
    "remat": False,
    "vector_size": 3,
}


def base() -> ConfigDict:
    """Procedural pelvises, views within 15 degrees of the front."""
    return ConfigDict(
        {
            **defaults.RUN,
            "experiment": "radrotator",
            "objective": "diffusion",  # or "regression" (one call, squared error), or "student" of a teacher
            "teacher": "",  # of a student: the folder of a diffusion run
            "align": False,  # show the network also the radiograph turned as a flat sheet
            "align_mm": 10.0,  # before the isocentre: where the sheet is
            "input_view": "ap",  # or "random": of the radiograph that is given
            "data": {
                "source": "pelvis",  # or "chest", or a folder of CT volumes (NIfTI, DICOM series)
                "pairs": 1,  # of views that are rendered of each patient of a batch
                "holdout": 0.0,  # share of a folder's patients kept for evaluation
                "size": 96,  # voxels along each side of the cube that a volume is brought to
                "field_mm": 400.0,  # side of this cube
                "warp": 0.03,  # standard deviation of a volume's random deformation, as a share of the side
            },
            "arm": {"sdd": 1020.0, "sod": 800.0, "field_mm": 480.0, "size": 32},  # field: at the isocentre
            "angles": {"limit": 15.0},  # degrees of yaw, pitch and roll, both ways
            "curve": {"points": (3, 10), "probability": 0.9},  # of grey values, shared by both views
            "process": {"name": "Cosine", "t_max": 1.0},
            "output": "v",
            "time_input": "t",
            "model": UNET,
            "loss": {
                "times": {"name": "stratified"},
                "weighting": {"name": "simple", "target": "v"},
                "drop_vector": 0.1,
            },
            # of a student, by f-distill: one call of the network, from noise
            "distil": {
                **METHOD,
                "student_levels": (1e4,),  # no signal
                "noise": {"low": 0.05, "high": 20.0},
                "fake_weighting": {"name": "simple", "target": "v"},
                "guidance": 2.0,
                "critic_steps": 2,
                "critic_rate": 1e-3,
            },
            "train": {
                "num_steps": 1800,
                "batch_size": 32,
                "accumulate": 1,
                "ema": ("warmup:0.995",),
                "log_every": 100,
                "checkpoint_every": 450,
                **defaults.CHECKPOINTS,
                "optimizer": dict(defaults.SHORT_RUN),
            },
            "sample": {
                "ema": "warmup:0.995",
                "sampler": "ddim",
                "grid": "uniform",
                "steps": 5,
                "guidance": 2.0,
                "rescale": 0.7,
            },
            "eval": {
                "n": 64,
                "batch_size": 64,
                "retrieval_n": 64,
                "seeds": 4,
                "beside": {},  # name: changes of this run that make another, trained in WORKDIR/name
            },
        }
    )


def variant_of(
    name: str | None, variants: Mapping[str, Mapping[str, Any]], default: str = "demo"
) -> ConfigDict:
    """The base with a variant's changes (:func:`experiments.defaults.variant_of`)."""
    return defaults.variant_of(
        name, variants, base(), default=default, whole=("process", "model", "eval.beside")
    )
