"""Denoising: a noisy image is a step of the diffusion, the one whose noise is as strong.

With noise of standard deviation s, ``y = x0 + s n``, the step is the t where ``sigma(t) / alpha(t) = s``, and
``alpha(t) y`` is a draw of x_t given x0. There the network's estimate is the image of least mean squared
error, and sampling on from there draws from the posterior (Chung et al. 2023, Med. Image Anal. 86; Xiang et
al. 2023, arXiv:2302.03018).

Without clean images (``config.supervision = "noisy"``), from two acquisitions each: x_t is made from the
first, for steps with more noise than it has, and the network predicts the second, whose mean given x_t is
that of the clean image (Lehtinen et al. 2018, arXiv:1803.04189). Such a network knows nothing below that
step, so it gives estimates and no samples.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import checks, sample
from diffax.processes import GaussianProcess, per_sample, perturb_noisy, times
from diffax.samplers import ddpm
from diffax.training.step import Batch, LossFn
from diffax.types import Params
from experiments import build
from experiments.medical_survey.tasks import base, images, measures, pictures
from experiments.medical_survey.tasks.images import NULL, Prior, condition

Images = Float[np.ndarray, "n h w c"]
SUPERVISION = ("clean", "noisy")


def make_task(config: ConfigDict) -> base.Task:
    """The task at each of ``config.eval.noise``, standard deviations as shares of the full range of greys."""
    checks.require_one_of("config.supervision", config.supervision, SUPERVISION)
    prior = images.make_prior(config)
    clean = config.supervision == "clean"
    losses = images.losses(prior) if clean else {"model": noisy_loss(prior)}

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        truth = prior.cases.held_out(config.eval.n)[prior.field]
        found, shown = {}, {}
        for level in config.eval.noise:
            y = add_noise(truth, level, config.seed + 23)
            answers = {"": estimate(prior, networks["model"], y, level)}
            if clean:
                draws = posterior_samples(prior, networks["model"], y, level, config.eval.draws)
                answers |= {"sample": draws[0], "mean_of_samples": draws.mean(axis=0)}
            answers |= {"noisy": np.clip(y, -1, 1)} | classical(y, level)
            for name, images_of in answers.items():
                own = measures.agreement(np.clip(images_of, -1, 1), truth)
                found.setdefault(name, {}).update({f"{k}_{level:g}": v for k, v in own.items()})
            shown = {"truth": truth} | {k or "estimate": v for k, v in answers.items()}
        pictures.rows(workdir / "denoised.png", shown)
        about = {"n_real": len(truth), "n_fake": len(truth), "seed": config.seed}
        return measures.report(found, **about, split=prior.cases.split, extractor=measures.AGREEMENT)

    def draw(networks: base.Networks, workdir: Path) -> None:
        truth, level = prior.cases.held_out(config.sample.n)[prior.field], config.eval.noise[0]
        y = add_noise(truth, level, config.seed + 23)
        shown = {"noisy": y, "estimate": estimate(prior, networks["model"], y, level), "truth": truth}
        pictures.rows(workdir / "samples-denoised.png", shown)

    def init(key: Key[Array, ""]) -> dict[str, Params]:
        found = images.init(prior, key)
        return found if clean else {"model": found["model"]}

    return base.Task(prior.needs, init, losses, evaluate, draw)


def add_noise(x: Images, level: float, seed: int) -> Images:
    """Gaussian noise of a share of the full range; not clipped, as the network's noise is not."""
    return (x + 2 * level * np.random.default_rng(seed).standard_normal(x.shape)).astype(np.float32)


def estimate(prior: Prior, params: Params, y: Images, level: float) -> Images:
    """The mean of clean images given the noisy one: a single call of the network."""
    start, t = matched_step(prior.model.process, jnp.asarray(y), level)
    cond = condition(jnp.full(y.shape[0], NULL))
    denoise = base.denoiser(prior.config, prior.model, params)
    return np.asarray(jax.jit(denoise)(start, t, cond))


def posterior_samples(
    prior: Prior, params: Params, y: Images, level: float, draws: int
) -> Float[np.ndarray, "..."]:
    """(draws, n, h, w, c) clean images that would explain the noisy one: ancestral sampling from its step."""
    process, steps = prior.model.process, prior.config.eval.steps
    start, t = matched_step(process, jnp.asarray(y), level)
    grid = jnp.linspace(t[0], jnp.maximum(process.t_min, 1e-3), steps + 1)
    cond = condition(jnp.full(y.shape[0], NULL))
    denoise = base.denoiser(prior.config, prior.model, params)

    @jax.jit
    def one(key: Key[Array, ""]) -> Array:
        keys = jax.random.split(key, len(y))
        return sample(keys, denoise, process, ddpm(), grid, x_init=start, cond=cond).x

    keys = jax.random.split(jax.random.key(prior.config.seed + 24), draws)
    return np.stack([np.asarray(one(key)) for key in keys])


def noisy_loss(prior: Prior) -> LossFn:
    """Squared error of the second acquisition, at steps that have at least the first one's noise."""
    config, process = prior.config, prior.model.process
    weighting = build.make_weighting(config.loss.weighting)
    level = config.eval.noise[0]

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        time_key, noise_key = jax.random.split(key)
        x0 = batch[prior.field]
        least = times.of_level(process, jnp.asarray(2 * level))
        t = least + jax.random.uniform(time_key, x0.shape[:1]) * (process.t_max - least)
        own, other, eps = jax.random.normal(noise_key, (3, *x0.shape))
        first, second = x0 + 2 * level * own, x0 + 2 * level * other  # two acquisitions
        x = perturb_noisy(process, first, eps, t, 2 * level)
        denoise = base.denoiser(config, prior.model, params)
        guess = denoise(x, t, condition(jnp.full(x.shape[:1], NULL)))
        error = jnp.mean((guess - second) ** 2, axis=tuple(range(1, x.ndim)))
        return jnp.mean(weighting(process, t) * error), {"x0_error": jnp.mean(error)}

    return loss_fn


def classical(y: Images, level: float) -> dict[str, Images]:
    """Gaussian blur, total variation and non-local means (scikit-image), given the noise's strength.

    Widths and weights are the best of several on other heads than those that are reported."""
    restoration = _restoration()
    from scipy.ndimage import gaussian_filter

    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "gaussian": lambda v: gaussian_filter(v, 0.4 + 2 * level),
        "tv": lambda v: restoration.denoise_tv_chambolle(v, weight=0.6 * 2 * level, max_num_iter=400),
        "non_local_means": lambda v: restoration.denoise_nl_means(
            v, patch_size=5, patch_distance=7, h=2 * level, sigma=2 * level, fast_mode=False
        ),
    }
    return {
        name: np.stack([way(image[..., 0].astype(np.float64)) for image in y])[..., None].astype(np.float32)
        for name, way in ways.items()
    }


def matched_step(process: GaussianProcess, y: Array, level: float) -> tuple[Array, Array]:
    """``alpha(t) y`` and the t at which it is a step of the diffusion."""
    t = jnp.full(y.shape[:1], times.of_level(process, jnp.asarray(2 * level)))
    return per_sample(process.alpha(t), y) * y, t


def _restoration() -> Any:
    from diffax.data.optional import optional_import

    return optional_import("skimage.restoration", "survey")
