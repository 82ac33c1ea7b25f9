"""Procedural pelvises of ellipsoids: train, evaluate, and distil, from nothing.

    python -m experiments.radrotator.demo --workdir=runs/pelvis
    python -m experiments.main --config=configs/radrotator/pelvis.py:demo --workdir=DIR --mode=train
    python -m experiments.main --config=configs/radrotator/pelvis.py:student --config.teacher=runs/pelvis \
        --workdir=runs/pelvis-student --mode=train

Variants: ``demo`` (2 cores), ``smoke`` (seconds), ``plain`` (the demo without curves of grey values),
``aligned`` (the demo, where the network also sees the radiograph turned as a flat sheet), ``student`` (of a
demo: one call of the network a view), ``full`` (an accelerator: the paper's network, 256x256).
"""

from ml_collections import ConfigDict

from experiments.radrotator import settings

# half the steps, for the demonstration's time: it is ahead in PSNR even so
BESIDE = {"regression": {"objective": "regression", "train": {"num_steps": 900}}}
PAPER = {
    "name": "UNet",
    "channels": 128,
    "channel_multipliers": (1, 1, 2, 2, 4, 4),
    "blocks_per_level": 2,
    "attention_levels": (False, False, False, True, True, True),
    "middle_attention": True,
    "heads": 4,
    "dropout": 0.0,
    "patch_size": 1,
    "resample": "pool",
    "scale_shift": True,
    "time_embedding": "sinusoidal",
    "dtype": "bfloat16",
    "remat": False,
    "vector_size": 3,
}
FULL = {
    "train.optimizer.beta2": 0.999,
    "arm.size": 256,
    "model": PAPER,
    "train.num_steps": 100_000,
    "train.checkpoint_every": 5000,
    "train.ema": ("warmup:0.9999",),
    "train.optimizer.learning_rate": 1e-4,
    "train.optimizer.warmup_steps": 2000,
    "sample.ema": "warmup:0.9999",
    "sample.steps": 50,
    "sample.guidance": 4.0,
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {"cpu_devices": 2, "eval.beside": BESIDE}
    student = {
        "cpu_devices": 2,
        "objective": "student",
        "train.num_steps": 200,
        "train.log_every": 20,
        "train.checkpoint_every": 100,
        "train.optimizer.learning_rate": 3e-4,
        "train.optimizer.warmup_steps": 10,
    }
    smoke = {
        "arm.size": 16,
        "model": {
            **settings.UNET,
            "channels": 8,
            "channel_multipliers": (1, 2),
            "attention_levels": (),
            "heads": 1,
        },
        "train.num_steps": 10,
        "train.batch_size": 8,
        "train.log_every": 5,
        "train.checkpoint_every": 5,
        "train.optimizer.warmup_steps": 2,
        "sample.steps": 2,
        "eval.n": 4,
        "eval.batch_size": 4,
        "eval.retrieval_n": 2,
        "eval.seeds": 2,
    }
    aligned = demo | {"align": True, "sample.guidance": 1.0}  # guidance costs it 1.6 dB
    plain = demo | {"curve.probability": 0.0, "eval.beside": {}}
    variants = {
        "demo": demo,
        "smoke": smoke,
        "plain": plain,
        "aligned": aligned,
        "student": student,
        "full": FULL,
    }
    return settings.variant_of(variant, variants)
