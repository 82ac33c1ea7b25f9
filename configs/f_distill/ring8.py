"""Eight Gaussians on a ring, from an exact teacher: what each divergence does, where every mode is seen.

    python -m experiments.main --config=configs/f_distill/ring8.py:demo --workdir=runs/ring --mode=train

Variants: ``demo`` (the pipeline with learned networks, minutes on a CPU), ``particles`` (points in place of a
generator, all laws exact; seconds), ``smoke``. ``--config.divergence=rkl`` and so on.
"""

from ml_collections import ConfigDict

from experiments.f_distill import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "train.num_steps": 2000,
        "train.checkpoint_every": 250,
        "train.keep_every": 500,
    }
    smoke = {
        "start.steps": 200,
        "model.width": 16,
        "gan.width": 16,
        "train.num_steps": 20,
        "train.batch_size": 32,
        "train.log_every": 5,
        "train.checkpoint_every": 10,
        "eval.n": 400,
        "eval.batch_size": 400,
        "sample.n": 100,
        "sample.batch_size": 100,
    }
    particles = {"objective": "particles", "train.num_steps": 3000, "train.keep_every": 500}
    return settings.variant_of(
        variant, {"demo": demo, "smoke": smoke, "particles": particles}, settings.points()
    )
