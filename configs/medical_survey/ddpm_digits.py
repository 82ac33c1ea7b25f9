"""DDPM on the embedded 8x8 digits: a linear table of 1,000 entries, noise prediction, L_simple.

    python -m experiments.main --config=configs/medical_survey/ddpm_digits.py:demo --workdir=runs/ddpm

Ho et al. 2020 (arXiv:2006.11239), at the digits' size. Variants: ``demo`` (minutes on 2 cores), ``smoke``
(seconds), ``full`` (ten times the steps, all 1,000 sampling steps).
"""

from ml_collections import ConfigDict

from experiments.medical_survey import settings

TRAINING = {
    "framework": "ddpm",
    "process": settings.TABLE,
    "output": "eps",
    "sigma_data": 0.0,
    "time_input": "t",
    "loss.times": {"name": "stratified"},
    "loss.weighting": {"name": "simple", "target": "eps"},
    "sample.threshold": "static",
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    solvers = {
        "ddpm": settings.solver("DDPM", settings.TABLE, "ddpm", "trailing", 100),
        "ddim": settings.solver("DDPM", settings.TABLE, "ddim", "trailing", 50),
    }
    few = {"ddim": settings.solver("DDPM", settings.TABLE, "ddim", "trailing", 4)}
    ancestral = {"ddpm": settings.solver("DDPM", settings.TABLE, "ddpm", "trailing", 1000)}
    model = {**settings.UNET_8, "time_embedding": "sinusoidal", "time_scale": 1000.0}
    demo = {**TRAINING, "model": model, "solvers": solvers}
    variants = {
        "demo": demo,
        "smoke": settings.smoke(demo, few),
        "full": {**demo, "train.num_steps": 20_000, "solvers": {**solvers, **ancestral}},
    }
    return settings.variant_of(variant, variants)
