"""Images of a class: heads with and without a lesion.

    python -m experiments.medical_survey.demo --config=configs/medical_survey/generation.py:demo \
        --workdir=runs/generation

Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full`` (256 x 256, an accelerator),
``volumes`` (heads in three dimensions, 24 voxels wide). Measured figures:
experiments/medical_survey/README.md.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import task_settings

EVALUATION = {
    "guidance": (1.0, 0.0, 2.0, 4.0),  # the first is what distances to real images are reported of
    "n_others": 150,  # samples at the other scales, each of whose steps is two calls of the network
    "reader_steps": 400,  # of the classifier that tells what a sample shows
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {"eval.n": 400, "sample.sampler": "ddpm", "sample.steps": 30}
    smoke = {"eval.guidance": (1.0,), "sample.steps": 2, "eval.reader_steps": 5, "eval.n": 100}
    volumes = {
        "model": task_settings.UNET | {"name": "UNet3D", "channels": 16},
        # 24^3 numbers from 350 batches of 8: what says the volume itself is smooth, v leaves it full of grain
        "output": "x0",
        "loss.weighting": {"name": "simple", "target": "x0"},
        "sample.sampler": "ddim",
        "data.dims": 3,
        "data.size": 24,
        "train.batch_size": 8,
        "train.num_steps": 350,
        "eval.guidance": (1.0,),
        "sample.steps": 20,
        "eval.n": 64,
    }
    return task_settings.variant_of(
        variant, "generation", EVALUATION, demo=demo, smoke=smoke, volumes=volumes
    )
