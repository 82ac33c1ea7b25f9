"""Score SDEs on the embedded 8x8 digits, in continuous time.

    python -m experiments.main --config=configs/medical_survey/sde_digits.py:vp --workdir=runs/sde

Variants: ``vp``, ``subvp``, ``ve`` (three minutes on 2 cores each), ``demo`` (= ``vp``), ``smoke`` (seconds),
``full`` (= ``vp`` for ten times as long).
"""

from ml_collections import ConfigDict

from experiments.medical_survey import settings


def _process(process: dict) -> dict:
    """EDM's weighting and preconditioning serve every SDE: both depend on the signal-to-noise ratio only."""
    return {
        "framework": "sde",
        "process": process,
        "loss.times.name": "log_normal",
        "solvers": {
            "sde-pc": settings.solver("SDE", process, "predictor_corrector", "log_snr", 50),
            "sde-em": settings.solver("SDE", process, "euler_maruyama", "log_snr", 100),
            "sde-ode": settings.solver("SDE", process, "probability_flow", "uniform", 2),
            "sde-dpm": settings.solver("SDE", process, "dpmpp_2m", "log_snr", 20),
        },
        "eval.likelihood_n": 64,
    }


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    vp, sub_vp, ve = (_process(process) for process in (settings.VP, settings.SUB_VP, settings.VE))
    few = {"sde-dpm": settings.solver("SDE", settings.VP, "dpmpp_2m", "log_snr", 10)}
    variants = {
        "smoke": settings.smoke(vp, few),
        "demo": vp,
        "vp": vp,
        "subvp": sub_vp,
        "ve": ve,
        "full": {**vp, "train.num_steps": 20_000, "eval.likelihood_n": 360},
    }
    return settings.variant_of(variant, variants)
