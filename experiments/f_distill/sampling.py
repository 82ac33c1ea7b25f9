"""Samples of a student, and of its teacher from the same noise."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from diffax import sample
from diffax.io import seed_keys
from diffax.io.export import SamplingFn
from diffax.processes import GaussianProcess, normal
from diffax.samplers import Sampler, fold_keys, renoise
from diffax.types import Cond, DenoiseFn, Keys, Params
from experiments.f_distill.method import Method, student
from experiments.medical_survey.method import condition

Generate = Callable[[Params, Keys, Array], Array]  # (params, keys, labels) -> samples
_START = 0x7FFFFFFE  # folded into a key for the noise that student and teacher share


def start_noise(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Standard normal noise, one key per sample."""
    return normal(fold_keys(keys, _START), shape)


def draw(method: Method, params: Params, keys: Keys, shape: tuple[int, ...], cond: Cond | None) -> Array:
    """Samples in as many calls of the network as the grid has steps."""
    denoise, noise = student(method, params), method.process.sigma(method.grid[0])
    x = noise * start_noise(keys, shape)
    return sample(keys, denoise, method.process, renoise(), method.grid, x_init=x, cond=cond).x


def make_generate(method: Method, shape: tuple[int, ...], labelled: bool) -> Generate:
    """The student's sampling, jitted; labels are ignored by a network that knows no classes."""

    @jax.jit
    def generate(params: Params, keys: Keys, labels: Array) -> Array:
        return draw(method, params, keys, shape, condition(labels) if labelled else None)

    return generate


def make_teacher_generate(
    make_denoiser: Callable[[Params], DenoiseFn],
    process: GaussianProcess,
    sampler: Sampler,
    grid: Float[Array, "points"],
    shape: tuple[int, ...],
    labelled: bool,
) -> Generate:
    """The teacher's sampling with one of its solvers, jitted, from the student's noise."""

    @jax.jit
    def generate(params: Params, keys: Keys, labels: Array) -> Array:
        x = process.sigma(grid[0]) * start_noise(keys, shape)
        cond = condition(labels) if labelled else None
        return sample(keys, make_denoiser(params), process, sampler, grid, x_init=x, cond=cond).x

    return generate


def exportable(method: Method, shape: tuple[int, ...], labelled: bool, params: Params) -> SamplingFn:
    """Sampling as a function ``(seeds, labels, guidance) -> samples`` that holds its parameters.

    It takes a scale of guidance as all exported samplers do, and ignores it: the teacher's is distilled.
    """

    def generate(seeds: Array, labels: Array, guidance: Any) -> Array:
        return draw(method, params, seed_keys(seeds), shape, condition(labels) if labelled else None)

    return generate
