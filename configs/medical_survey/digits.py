"""One network for all three frameworks on the embedded 8x8 digits: the demonstration.

    python -m experiments.medical_survey.report --workdir=runs/demo

The network is trained with EDM's preconditioning, which depends on the signal-to-noise ratio alone, so DDPM's
table, NCSN's noise levels and the SDEs are all sampled from the same checkpoint. Expected on 2 cores: see
BUILD_NOTES.md. Variants: ``demo`` (minutes), ``smoke`` (seconds), ``full`` (ten times the steps).
"""

from ml_collections import ConfigDict

from experiments.medical_survey import settings

SOLVERS = {
    "ddpm": settings.solver("DDPM", settings.TABLE, "ddpm", "trailing", 100),
    "ddim": settings.solver("DDPM", settings.TABLE, "ddim", "trailing", 50),
    "ncsn": settings.solver("NCSN", settings.NCSN, "annealed_langevin", "log_snr", 20),
    "sde-pc": settings.solver("SDE", settings.VE, "predictor_corrector", "log_snr", 40),
    "sde-em": settings.solver("SDE", settings.VP, "euler_maruyama", "log_snr", 60),
    "sde-ode": settings.solver("SDE", settings.SUB_VP, "probability_flow", "uniform", 2),
    "sde-heun": settings.solver("SDE", settings.EDM, "heun", "karras", 18),
    "sde-dpm": settings.solver("SDE", settings.VP, "dpmpp_2m", "log_snr", 15),
}


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {"solvers": SOLVERS, "eval.likelihood_n": 60, "train.num_steps": 1600, "cpu_devices": 2}
    variants = {
        "demo": demo,
        "smoke": settings.smoke(
            demo, {name: {**SOLVERS[name], "steps": 4} for name in ("ddpm", "ncsn", "sde-dpm")}
        )
        | {"eval.likelihood_n": 0, "cpu_devices": 1},
        "full": {**demo, "train.num_steps": 16_000},
    }
    return settings.variant_of(variant, variants)
