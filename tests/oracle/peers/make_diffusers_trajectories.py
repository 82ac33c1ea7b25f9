"""Make ``diffusers_trajectories.json``: 20-step trajectories of a peer's schedulers on a known denoiser.

    pip install torch diffusers && python make_diffusers_trajectories.py

The denoiser is the exact posterior mean of a two-component Gaussian mixture in the plane, written here in
numpy alone. Each trajectory starts from the same 8 points; noise, where a scheduler needs any, is stored.
Float64 throughout, rounded to 10 digits.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch

STEPS, POINTS, DIM = 20, 8, 2
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.5], [1.5, -0.5]])
VARIANCES = np.array([0.09, 0.25])


def posterior_mean(x, alpha, sigma):
    """``E[x0 | alpha x0 + sigma eps = x]``."""
    total = alpha**2 * VARIANCES + sigma**2
    difference = x[:, None] - alpha * MEANS
    log_joint = np.log(WEIGHTS) - (difference**2).sum(-1) / (2 * total) - DIM / 2 * np.log(total)
    share = np.exp(log_joint - log_joint.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    gain = (alpha * VARIANCES / total)[:, None] * difference
    return (share[..., None] * (MEANS + gain)).sum(1)


def eps_at(x, alpha, sigma):
    """The noise that the posterior mean implies."""
    return torch.from_numpy((x.numpy() - alpha * posterior_mean(x.numpy(), alpha, sigma)) / sigma)


def run_table(scheduler, start, noise=None):
    """A scheduler on the 1,000-entry linear table; x is in the variance-preserving scale."""
    scheduler.set_timesteps(STEPS)
    table = scheduler.alphas_cumprod.to(torch.float64).numpy()
    x, path = start.clone(), [start.numpy()]
    for i, t in enumerate(scheduler.timesteps):
        alpha, sigma = np.sqrt(table[int(t)]), np.sqrt(1 - table[int(t)])
        options = {} if noise is None else {"generator": Replay(noise[i])}
        with replayed(options.pop("generator", None)):
            x = scheduler.step(eps_at(x, alpha, sigma), t, x).prev_sample
        path.append(x.numpy())
    return {"timesteps": [int(t) for t in scheduler.timesteps], "path": path}


def run_sigma(scheduler, start):
    """A scheduler in the variance-exploding scale: the input is divided by sqrt(sigma^2 + 1)."""
    scheduler.set_timesteps(STEPS)
    x = start * scheduler.sigmas[0].to(torch.float64)
    path = [x.numpy()]
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        scaled = scheduler.scale_model_input(x, t)
        root = np.sqrt(sigma**2 + 1)
        x = scheduler.step(eps_at(scaled, 1 / root, sigma / root), t, x).prev_sample
        if i % 2 == 1 or i == len(scheduler.timesteps) - 1:
            path.append(x.numpy())
    levels = scheduler.sigmas.to(torch.float64).numpy()
    return {"levels": [*levels[:-1:2].tolist(), 0.0], "path": path}


class Replay:
    """Marks the noise that the next draw must return."""

    def __init__(self, value):
        self.value = value


class replayed:
    """Replace the random draws of the schedulers by stored noise."""

    def __init__(self, replay):
        self.replay = replay

    def __enter__(self):
        from diffusers.schedulers import scheduling_ddpm, scheduling_dpmsolver_multistep

        self.modules = [scheduling_ddpm, scheduling_dpmsolver_multistep]
        self.saved = [module.randn_tensor for module in self.modules]
        for module in self.modules:
            module.randn_tensor = lambda *a, **k: torch.from_numpy(self.replay.value)

    def __exit__(self, *_):
        for module, function in zip(self.modules, self.saved, strict=True):
            module.randn_tensor = function


def main():
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.normal(size=(POINTS, DIM)))
    noise = rng.normal(size=(STEPS, POINTS, DIM))
    # float64 betas: the schedulers' own float32 tables would cost four digits
    betas = np.linspace(1e-4, 2e-2, 1000)
    common = {"trained_betas": betas, "num_train_timesteps": 1000}

    def make(cls, **options):
        scheduler = cls(**common, **options)
        for name, value in {
            "betas": betas,
            "alphas": 1 - betas,
            "alphas_cumprod": np.cumprod(1 - betas),
            "alpha_t": np.sqrt(np.cumprod(1 - betas)),
            "sigma_t": np.sqrt(1 - np.cumprod(1 - betas)),
        }.items():
            if hasattr(scheduler, name):
                setattr(scheduler, name, torch.from_numpy(value))
        return scheduler

    dpm = {
        "solver_order": 2,
        "solver_type": "midpoint",
        "timestep_spacing": "trailing",
        "final_sigmas_type": "zero",
    }
    trajectories = {
        "ddim": run_table(
            make(
                diffusers.DDIMScheduler, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
            ),
            start,
        ),
        "ddpm": run_table(
            make(
                diffusers.DDPMScheduler,
                clip_sample=False,
                timestep_spacing="trailing",
                variance_type="fixed_small",
            ),
            start,
            noise,
        ),
        "dpmpp_2m": run_table(
            make(diffusers.DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", **dpm), start
        ),
        "dpmpp_2m_sde": run_table(
            make(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++", **dpm), start, noise
        ),
        "heun": run_sigma(make(diffusers.HeunDiscreteScheduler, use_karras_sigmas=True), start),
    }
    document = {
        "provenance": {
            "made_by": "make_diffusers_trajectories.py",
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
            "schedulers": "DDIM, DDPM, DPMSolverMultistep, HeunDiscrete",
            "betas": "linear, 1e-4 to 2e-2, 1000 entries",
        },
        "weights": WEIGHTS.tolist(),
        "means": MEANS.tolist(),
        "variances": VARIANCES.tolist(),
        "noise": np.round(noise, 10).tolist(),
        "trajectories": {
            name: {**value, "path": np.round(np.stack(value["path"]), 10).tolist()}
            for name, value in trajectories.items()
        },
    }
    Path(__file__).with_name("diffusers_trajectories.json").write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
