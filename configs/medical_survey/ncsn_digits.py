"""NCSN on the embedded 8x8 digits: geometric noise levels, denoising score matching, annealed Langevin.

    python -m experiments.main --config=configs/medical_survey/ncsn_digits.py:demo --workdir=runs/ncsn

Song & Ermon 2019 (arXiv:1907.05600) with the improved techniques of 2020 (arXiv:2006.09011): the score is
``network / sigma``, so the network predicts eps; the loss is weighted by sigma^2. Its input is scaled
to unit variance. Variants: ``demo`` (minutes on 2 cores), ``smoke`` (seconds), ``full``.
"""

from ml_collections import ConfigDict

from experiments.medical_survey import settings

TRAINING = {
    "framework": "ncsn",
    "process": settings.NCSN,
    "output": "eps",
    "sigma_data": 0.5,
    "time_input": "c_noise",
    "loss.times": {"name": "log_snr_uniform"},
    "loss.weighting": {"name": "simple", "target": "eps"},
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    solvers = {"ncsn": settings.solver("NCSN", settings.NCSN, "annealed_langevin", "log_snr", 24)}
    few = {"ncsn": settings.solver("NCSN", settings.NCSN, "annealed_langevin", "log_snr", 4)}
    fine = {"ncsn": settings.solver("NCSN", settings.NCSN, "annealed_langevin", "log_snr", 200)}
    demo = {**TRAINING, "solvers": solvers}
    variants = {
        "demo": demo,
        "smoke": settings.smoke(demo, few),
        "full": {**demo, "train.num_steps": 20_000, "solvers": fine},
    }
    return settings.variant_of(variant, variants)
