"""Denoising diffusion GAN on 25 Gaussians in the plane: the paper's toy study, with exact oracles.

    python -m experiments.main --config=configs/ddgan/gaussians25.py:demo --workdir=runs/g25 --mode=train
    python -m experiments.main --config=configs/ddgan/gaussians25.py:demo --workdir=runs/g25 --mode=eval

Variants: ``demo`` (standard deviation 0.1, four steps; minutes on 2 cores), ``no_latent`` and ``l2`` (what
z is for: both fail), ``smoke`` (seconds), ``full`` (the paper's 0.05, wide networks, for accelerators).
"""

from ml_collections import ConfigDict

from experiments.ddgan import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    smoke = {
        "train.num_steps": 20,
        "train.log_every": 5,
        "train.checkpoint_every": 10,
        "generator.width": 16,
        "discriminator.width": 16,
        "sample.n": 100,
        "sample.batch_size": 100,
        "eval.n": 500,
        "eval.batch_size": 500,
        "eval.spread_n": 32,
        "eval.timing_n": 10,
    }
    full = {
        "data.std": 0.05,
        "generator.width": 512,
        "discriminator.width": 512,
        "train.batch_size": 512,
        "train.num_steps": 200_000,
    }
    average = "warmup:0.9995"
    demo = {"train.num_steps": 120_000, "train.ema": (average,), "sample.ema": average}
    variants = {
        "demo": demo,
        "no_latent": {**demo, "latent": 0},
        "l2": {**demo, "latent": 0, "objective": "l2"},
        "smoke": smoke,
        "full": full,
    }
    return settings.variant_of(variant, variants, settings.points())
