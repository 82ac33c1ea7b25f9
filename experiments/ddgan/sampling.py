"""Samples from a trained generator, and what a sample costs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffax import sample
from diffax.io import in_batches, seed_keys
from diffax.io.export import SamplingFn
from diffax.processes import FromTable
from diffax.samplers import Sampler, ddim, posterior
from diffax.types import Cond, DenoiseFn, Keys, Params
from experiments.ddgan.method import Method, chain, grid
from experiments.figures import fastest


def denoiser(made: Method, params: Params) -> DenoiseFn:
    """The generator as a denoiser that draws: it reads its latent from ``cond["z"]``."""

    def denoise(x: Array, t: Array, cond: Cond | None) -> Array:
        return made.generate(params, x, t, cond)

    return denoise


@partial(jax.jit, static_argnames=("made", "shape", "return_path"))
def draw_samples(
    made: Method, shape: tuple[int, ...], params: Params, keys: Keys, return_path: bool = False
) -> Float[Array, "b ..."]:
    """Samples of one key each, or their paths from noise to data, Float["b points ..."]."""
    out = sample(
        keys, denoiser(made, params), made.process, made.sampler, made.grid,
        shape=shape, return_path=return_path,
    )  # fmt: skip
    return out.x if out.path is None else out.path


def generate(
    made: Method,
    shape: tuple[int, ...],
    params: Params,
    key: Key[Array, ""],
    n: int,
    batch_size: int,
    *,
    return_path: bool = False,
) -> np.ndarray:
    """``n`` samples, or paths, in batches of one size."""

    def call(params: Params, keys: Keys, _: Any) -> Array:
        return draw_samples(made, shape, params, keys, return_path)

    return np.concatenate(list(in_batches(call, params, key, n, batch_size)))


def exportable(made: Method, shape: tuple[int, ...], params: Params) -> SamplingFn:
    """Sampling as a function ``(seeds, labels, guidance) -> samples`` that holds its parameters.

    It takes labels and a scale of guidance as all exported samplers do, and ignores them.
    """

    def generate(seeds: Array, labels: Array, guidance: Array) -> Array:
        keys, denoise = seed_keys(seeds), denoiser(made, params)
        return sample(keys, denoise, made.process, made.sampler, made.grid, shape=shape).x

    return generate


def costs(
    made: Method, shape: tuple[int, ...], params: Params, key: Key[Array, ""], n: int
) -> dict[str, dict[str, float]]:
    """What n samples cost with this network in few steps and in many, drawn as one batch; n = 0: nothing.

    ``{"cost/steps_4": {"nfe", "seconds_per_100", "speedup"}, ...}``; ``speedup`` is over DDPM's 1,000 steps.
    Compilation is outside the clock; the fastest of three draws (of one, where it took over 5 s). DDIM and
    DDPM call the same network with z = 0, on the chain of 1,000 steps: they time it, they are no model.
    """
    if not n:
        return {}
    long, still = chain(1000), {"z": jnp.zeros((n, made.latent))} if made.latent else None
    solvers: dict[str, tuple[FromTable, Sampler, Array, Cond | None]] = {
        f"steps_{steps}": (chain(steps), posterior(made.latent), grid(steps), None) for steps in (1, 2, 4, 8)
    }
    solvers["ddim_50"] = (long, ddim(), grid(50), still)
    solvers["ddpm_1000"] = (long, posterior(), grid(1000), still)
    keys, seconds = jax.random.split(key, n), {}
    for name, (process, sampler, times, cond) in solvers.items():
        call = jax.jit(_timed(made, shape, process, sampler)).lower(params, keys, times, cond).compile()
        seconds[name] = 100 / n * fastest(partial(call, params, keys, times, cond))
    return {
        f"cost/{name}": {
            "nfe": len(solvers[name][2]) - 1,
            "seconds_per_100": value,
            "speedup": seconds["ddpm_1000"] / value,
        }
        for name, value in seconds.items()
    }


def _timed(
    made: Method, shape: tuple[int, ...], process: FromTable, sampler: Sampler
) -> Callable[..., Array]:
    def run(params: Params, keys: Keys, times: Array, cond: Cond | None) -> Array:
        return sample(keys, denoiser(made, params), process, sampler, times, shape=shape, cond=cond).x

    return run
