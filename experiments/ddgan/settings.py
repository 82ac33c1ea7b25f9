"""The configurations' common ground: every field with its default."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults

_COMMON = {
    **defaults.RUN,
    "experiment": "ddgan",
    "steps": 4,  # T
    "latent": 8,  # dimensions of z; 0 for none
    "objective": "gan",  # or "l2": regression on x0; "augmented": one shot, diffusion as augmentation
    "prediction": "x0",  # what the generator says: "x0", "eps", or "x_s", the next point itself
    "bounded": False,  # the generator's output through tanh
    "r1": {"gamma": 0.02, "lazy": 1, "rescale": True},
    "train": {
        "num_steps": 60_000,
        "batch_size": 256,
        "ema": ("warmup:0.999",),
        "log_every": 500,
        "checkpoint_every": 10_000,
        **defaults.CHECKPOINTS,
        "discriminator_rate": 0.0,  # learning rate of the discriminator; 0 for the generator's
        "optimizer": {
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "clip_norm": 0.0,
            "beta1": 0.5,
            "beta2": 0.9,
        },
    },
    "sample": {"n": 10_000, "batch_size": 2000, "ema": "warmup:0.999"},
    "eval": {"n": 10_000, "batch_size": 2000, "spread_n": 256, "timing_n": 100},
}
PERCEPTRON = {"name": "Perceptron", "width": 128, "layers": 3}
# for 8 x 8 images
GENERATOR_8 = {
    "name": "NCSNpp",
    "channels": 48,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (False, False),
    "middle_attention": True,
    "dropout": 0.0,
    "resample": "pool",
    "time_embedding": "sinusoidal",
    "progressive_input": "none",
    "dtype": "float32",
    "remat": False,
}
DISCRIMINATOR_8 = {
    "name": "PairDiscriminator",
    "channels": 64,
    "block_channels": (64, 128, 128),
    "halve": (False, True, True),
    "group": 4,
    "resample": "pool",
    "dtype": "float32",
}
GENERATOR_32 = {
    "name": "NCSNpp",
    "channels": 128,
    "channel_multipliers": (1, 2, 2, 2),
    "blocks_per_level": 2,
    "attention_levels": (False, True, False, False),
    "style_features": 256,
    "style_layers": 4,
    "dtype": "bfloat16",
}
DISCRIMINATOR_32 = {"name": "PairDiscriminator", "dtype": "bfloat16"}
GENERATOR_256 = {
    **GENERATOR_32,
    "channels": 64,
    "channel_multipliers": (1, 1, 2, 2, 4, 4),
    "attention_levels": (False, False, False, False, True, False),  # at 16 x 16
    "style_layers": 3,
}
DISCRIMINATOR_256 = {
    **DISCRIMINATOR_32,
    "block_channels": (256, 512, 512, 512, 512, 512),
    "halve": (True,) * 6,
}
# what all of the paper's image runs share
PAPER = {
    "latent": 100,
    "r1.rescale": False,
    "eval.spread_n": 32,
    "train.checkpoint_every": 5000,
    "train.log_every": 200,
    "train.ema": ("warmup:0.9999",),
    "sample.ema": "warmup:0.9999",
}
FOLDER_256 = {
    **PAPER,
    "data.source": ".",
    "data.size": 256,
    "data.channels": 3,
    "data.holdout": 0.1,
    "data.flip": True,
    "generator": GENERATOR_256,
    "discriminator": DISCRIMINATOR_256,
    "r1.lazy": 10,
    "sample.batch_size": 64,
    "eval.channel_source": "",
    "eval.batch_size": 64,
    "eval.n": 3000,
    "eval.spread_n": 2,
    "eval.timing_n": 20,
    "eval.real_n": 3000,
}
# a run of seconds with every part in it; lazy R1 by a branch is slow on a CPU
SMOKE = {
    "latent": 8,
    "r1.lazy": 1,
    "generator": {
        **GENERATOR_8,
        "channels": 8,
        "channel_multipliers": (1,),
        "attention_levels": (),
        "patch_size": 2,
    },
    "discriminator": {**DISCRIMINATOR_8, "channels": 8, "block_channels": (8, 8), "halve": (True, True)},
    "train.num_steps": 20,
    "train.batch_size": 8,
    "train.log_every": 5,
    "train.checkpoint_every": 10,
    "train.ema": ("warmup:0.999",),
    "sample.ema": "warmup:0.999",
    "sample.n": 10,
    "sample.batch_size": 20,
    "eval.n": 60,
    "eval.batch_size": 20,
    "eval.spread_n": 8,
    "eval.timing_n": 0,
    "eval.real_n": 200,
    "eval.quality_n": 60,
    "eval.classifier_steps": 60,
}


def points() -> ConfigDict:
    """25 Gaussians with a standard deviation of 0.1, four steps, small perceptrons."""
    data = {"source": "gaussians", "side": 5, "std": 0.1}  # side x side Gaussians, 2 apart, before scaling
    nets = {"generator": dict(PERCEPTRON), "discriminator": dict(PERCEPTRON)}
    return ConfigDict({**_COMMON, "data": data, **nets})


def images() -> ConfigDict:
    """Three embedded digits as the channels of an image, four steps, small convolutional networks."""
    data = {**defaults.IMAGES, "source": "stacked_digits"}
    evaluation = {
        "channel_source": "digits",  # what each channel shows, its classes the modes; "" for whole images
        "gate": 0.5,  # class probability below which a sample belongs to no mode
        "classifier_steps": 600,
        "inception": "",  # a file of Inception's weights, for its features
        "real_n": 0,  # real images of each split to compare with; 0 for all
        "quality_n": 2000,  # samples whose features are compared; modes are counted on all n
    }
    config = ConfigDict({**_COMMON, "data": data, "generator": GENERATOR_8, "discriminator": DISCRIMINATOR_8})
    config.latent = 64
    config.bounded = True
    config.eval.update(evaluation)
    config.sample.update({"n": 100, "batch_size": 500, "per_file": 10_000, "png": False})
    return config


def variant_of(
    name: str | None, variants: Mapping[str, Mapping[str, Any]], base: ConfigDict, default: str = "demo"
) -> ConfigDict:
    """The base with a variant's changes (:func:`experiments.defaults.variant_of`)."""
    whole = ("generator", "discriminator")
    return defaults.variant_of(name, variants, base, default=default, whole=whole)
