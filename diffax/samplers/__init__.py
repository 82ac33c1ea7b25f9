"""Samplers, the loop that drives them, and likelihoods."""

from diffax.samplers.ancestral import ddpm, direct, posterior, renoise
from diffax.samplers.base import Sampler, StepContext, chain, fold_keys, memoryless
from diffax.samplers.compilation import compile
from diffax.samplers.ddim import ddim
from diffax.samplers.heun import heun
from diffax.samplers.inpainting import inpaint
from diffax.samplers.inversion import ddim_inversion
from diffax.samplers.langevin import annealed_langevin, annealed_step_size, langevin
from diffax.samplers.likelihood import bits_per_dim, log_likelihood
from diffax.samplers.loop import SampleOutput, SamplerState, advance, begin, sample
from diffax.samplers.multistep import dpmpp_2m
from diffax.samplers.ode import integrate, probability_flow
from diffax.samplers.sde import euler_maruyama

__all__ = [
    "SampleOutput",
    "Sampler",
    "SamplerState",
    "StepContext",
    "advance",
    "annealed_langevin",
    "annealed_step_size",
    "begin",
    "bits_per_dim",
    "chain",
    "compile",
    "ddim",
    "ddim_inversion",
    "ddpm",
    "direct",
    "dpmpp_2m",
    "euler_maruyama",
    "fold_keys",
    "heun",
    "inpaint",
    "integrate",
    "langevin",
    "log_likelihood",
    "memoryless",
    "posterior",
    "probability_flow",
    "renoise",
    "sample",
]
