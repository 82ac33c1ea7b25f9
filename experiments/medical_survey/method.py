"""The three frameworks of the survey in the core's terms: what is predicted, how it is trained and sampled.

All three learn one function, ``E[x0 | x_t]``. They differ in the process, the weighting of the loss, and the
solver; each solver below names its framework, process, sampler, grid and number of steps.
Kazerouni et al. 2023 (arXiv:2211.07804), section 2.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from diffax import bind, sample
from diffax.guidance import classifier_free
from diffax.io import save_png, seed_keys, tile
from diffax.io.export import SamplingFn
from diffax.losses import denoising_loss, drop_labels
from diffax.processes import GaussianProcess
from diffax.samplers import SampleOutput, Sampler
from diffax.training.step import Batch, LossFn
from diffax.types import ApplyFn, Cond, DenoiseFn, Params
from experiments import build

TITLES = {
    "ddpm": "ancestral",
    "ddpm_large": "ancestral (large variance)",
    "ddim": "DDIM",
    "heun": "Heun",
    "heun_churn": "Heun with churn",
    "euler_maruyama": "Euler-Maruyama",
    "dpmpp_2m": "DPM-Solver++(2M)",
    "dpmpp_2m_sde": "DPM-Solver++(2M) SDE",
    "predictor_corrector": "predictor-corrector",
    "annealed_langevin": "annealed Langevin",
    "probability_flow": "adaptive probability flow",
}
UNCONDITIONAL = -1  # a label that asks for no class


class Solver(NamedTuple):
    """One way of sampling a trained network."""

    framework: str
    process: GaussianProcess
    sampler: Sampler
    grid: Float[Array, "points"]
    label: str


def make_solver(config: Mapping[str, Any]) -> Solver:
    """From ``{"framework", "process", "sampler", "grid", "steps"}``."""
    process = build.make_process(config["process"])
    grid = build.make_grid(config["grid"], process, config["steps"])
    sampler = build.make_sampler(config["sampler"], process, config["steps"])
    label = f"{TITLES[config['sampler']]}, {config['process']['name']}, {config['steps']} steps"
    return Solver(config["framework"], process, sampler, grid, label)


def make_denoiser(
    config: ConfigDict, apply_fn: ApplyFn, params: Params, process: GaussianProcess
) -> DenoiseFn:
    """The network under a process, as the configuration says what it predicts."""
    return bind(
        apply_fn,
        params,
        process=process,
        output=config.output,
        sigma_data=config.sigma_data or None,
        time_input=config.time_input,
    )


def make_loss(config: ConfigDict, model: nn.Module, process: GaussianProcess, train: bool = True) -> LossFn:
    """The framework's denoising loss on ``{"image", "label"}``; in training, labels and units drop out."""
    times = build.make_times(config.loss.times)
    weighting = build.make_weighting(config.loss.weighting)

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        drop_key, dropout_key, noise_key = jax.random.split(key, 3)
        cond = {"label": batch["label"]} if "label" in batch else None
        if cond is not None:
            cond = drop_labels(drop_key, cond, config.loss.drop_labels if train else 0.0)
        apply_fn = build.make_apply(model, dropout_key if train else None)
        denoise = make_denoiser(config, apply_fn, params, process)
        result = denoising_loss(
            noise_key, denoise, process, batch["image"], cond=cond, times=times, weighting=weighting
        )
        return result.loss, {"x0_error": jnp.mean(result.x0_error)}

    return loss_fn


def condition(labels: Int[Array, "b"]) -> Cond:
    """Labels for the network; :data:`UNCONDITIONAL` ones are ignored by it."""
    return {"label": jnp.maximum(labels, 0), "unconditional": labels < 0}


def make_generate(config: ConfigDict, model: nn.Module, shape: tuple[int, ...], solver: Solver) -> Any:
    """A jitted ``(params, keys, labels) -> SampleOutput`` under the configuration's guidance."""
    guide = build.make_guidance(config.sample.guidance, config.sample.threshold)

    @partial(jax.jit, static_argnames="return_path")
    def generate(params: Params, keys: Array, labels: Array, return_path: bool = False) -> SampleOutput:
        denoise = guide(make_denoiser(config, build.make_apply(model), params, solver.process))
        return sample(
            keys,
            denoise,
            solver.process,
            solver.sampler,
            solver.grid,
            shape=shape,
            cond=condition(labels),
            return_path=return_path,
        )

    return generate


def make_exportable(
    config: ConfigDict, model: nn.Module, params: Params, shape: tuple[int, ...], solver: Solver
) -> SamplingFn:
    """Sampling as a function ``(seeds, labels, guidance) -> images`` that holds its parameters."""
    threshold = build.make_guidance(1.0, config.sample.threshold)
    denoise = make_denoiser(config, build.make_apply(model), params, solver.process)

    def generate(seeds: Array, labels: Array, guidance: Array) -> Array:
        guided = threshold(classifier_free(guidance)(denoise) if config.data.classes else denoise)
        keys, cond = seed_keys(seeds), condition(labels)
        return sample(keys, guided, solver.process, solver.sampler, solver.grid, shape=shape, cond=cond).x

    return generate


def save_sheet(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """A PNG sheet of up to 100 samples, a column a class if there are ten."""
    sheet = tile(np.clip(images[by_class(labels)], -1, 1), columns=10, zoom=max(1, 40 // images.shape[1]))
    save_png(folder / f"samples-{name}.png", sheet)


def by_class(labels: np.ndarray, rows: int = 10) -> np.ndarray:
    """Indices of a sheet: the first ``rows`` of each of ten classes, row by row; else the first hundred."""
    classes = np.unique(labels)
    if len(classes) != 10 or min(np.bincount(labels)) < 1:
        return np.arange(min(len(labels), 10 * rows))
    depth = min(rows, min(np.bincount(labels)))
    return np.stack([np.flatnonzero(labels == c)[:depth] for c in classes], axis=1).ravel()


def format_row(row: Mapping[str, Any]) -> str:
    """One line of the table for the terminal."""
    return (
        f"{row['framework']}: {row['solver']}, {row['nfe']} calls, Fréchet {row['frechet']:.2f}, "
        f"class accuracy {row['class_accuracy']:.3f}, {row['seconds']:.1f} s"
    )
