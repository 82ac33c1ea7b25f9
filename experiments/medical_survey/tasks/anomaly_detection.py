"""Anomaly detection: what a network that knows healthy images would not have drawn.

Three ways to a healthy version x_hat of an image; the map of anomalies is ``|x - x_hat|``.

* *partial noising* (AnoDDPM: Wyatt et al. 2022, CVPRW): noise up to ``depth``, then sample healthy images
  back;
* *classifier-guided* (Wolleb et al. 2022, arXiv:2203.04306): encode by DDIM without a label, decode by DDIM
  under the gradient of log p(healthy | x_t);
* *classifier-free* (Sanchez et al. 2022, arXiv:2207.12268): the same, decoded under classifier-free guidance.

Labels of whole images are all that training sees; masks serve to measure.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax import checks, sample
from diffax.evaluation import auroc, best_dice, psnr
from diffax.guidance import classifier, classifier_free, compose, static_threshold
from diffax.processes import perturb
from diffax.samplers import ddim, ddim_inversion, ddpm
from diffax.types import DenoiseTransform, Keys
from experiments.medical_survey.tasks import base, images, measures, pictures
from experiments.medical_survey.tasks.images import NULL, Prior, condition

HEALTHY = 0
Heal = Callable[[base.Networks, Keys, Array], Array]  # (networks, keys, images) -> healthy versions


def make_task(config: ConfigDict) -> base.Task:
    """The task; its classes must include 0, healthy."""
    checks.require(
        config.data.classes >= 2, "config.data.classes", config.data.classes, "2 or more, 0 healthy"
    )
    checks.require(bool(config.classifier), "config.classifier", config.classifier, "True")
    prior = images.make_prior(config, "mask")

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        n = config.eval.n
        ill, well = prior.cases.held_out(n, 1), prior.cases.held_out(n, HEALTHY)
        found, shown = {}, {}
        for name, heal in make_healers(prior).items():
            x_hat = healed(prior, heal, networks, ill[prior.field])
            kept = healed(prior, heal, networks, well[prior.field])
            found[name] = measure(ill, well, prior.field, x_hat, kept)
            shown[name] = x_hat
        found |= baselines(prior, ill, well)
        pictures.rows(workdir / "anomalies.png", _columns(prior, ill, shown))
        n = len(ill["mask"])  # a folder may have fewer
        return measures.report(found, n_real=n, n_fake=n, split=prior.cases.split, seed=config.seed)

    def draw(networks: base.Networks, workdir: Path) -> None:
        ill = prior.cases.held_out(config.sample.n, 1)
        shown = {k: healed(prior, h, networks, ill[prior.field]) for k, h in make_healers(prior).items()}
        pictures.rows(workdir / "samples-anomalies.png", _columns(prior, ill, shown))

    return base.Task(prior.needs, lambda key: images.init(prior, key), images.losses(prior), evaluate, draw)


def make_healers(prior: Prior) -> dict[str, Heal]:
    """The three ways, compiled; "" is partial noising."""
    process, asked = prior.model.process, prior.config.eval

    def guided(networks: base.Networks) -> DenoiseTransform:
        def log_prob(x: Array, t: Array, cond: Any) -> Array:
            return images.log_probabilities(prior, networks["classifier"], x, t)[:, HEALTHY]

        return classifier(log_prob, process, asked.classifier_scale)

    def partial_noising(networks: base.Networks, keys: Keys, x: Array) -> Array:
        grid = _grid(process, asked.depth, asked.steps)
        denoise = static_threshold()(base.denoiser(prior.config, prior.model, networks["model"]))
        total = jnp.zeros_like(x)
        for repeat in range(asked.repeats):
            own = jax.vmap(lambda key: jax.random.fold_in(key, repeat))(keys)  # noqa: B023
            eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 10**6), x.shape[1:]))(own)
            start = perturb(process, x, eps, jnp.full(x.shape[:1], grid[0]))
            cond = condition(jnp.full(x.shape[:1], HEALTHY))
            total += sample(own, denoise, process, ddpm(), grid, x_init=start, cond=cond).x
        return total / asked.repeats

    def counterfactual(by_classifier: bool) -> Heal:
        def heal(networks: base.Networks, keys: Keys, x: Array) -> Array:
            grid = _grid(process, asked.depth_ddim, asked.steps_ddim)
            plain = base.denoiser(prior.config, prior.model, networks["model"])
            guide = guided(networks) if by_classifier else classifier_free(asked.guidance)
            null = condition(jnp.full(x.shape[:1], NULL))
            label = null if by_classifier else condition(jnp.full(x.shape[:1], HEALTHY))
            code = ddim_inversion(plain, process, x, grid, cond=null)
            denoise = compose(guide, static_threshold())(plain)
            return sample(keys, denoise, process, ddim(), grid, x_init=code, cond=label).x

        return heal

    ways = {
        "": partial_noising,
        "classifier_guided": counterfactual(True),
        "classifier_free": counterfactual(False),
    }
    return {name: jax.jit(way) for name, way in ways.items()}


def healed(prior: Prior, heal: Heal, networks: base.Networks, x: np.ndarray) -> np.ndarray:
    """Healthy versions, under the evaluation's own keys."""
    keys = jax.random.split(jax.random.key(prior.config.seed + 21), len(x))
    return np.clip(np.asarray(heal(networks, keys, jnp.asarray(x))), -1, 1)


def measure(
    ill: Mapping[str, np.ndarray],
    well: Mapping[str, np.ndarray],
    field: str,
    x_hat: np.ndarray,
    kept: np.ndarray,
) -> dict[str, measures.Value]:
    """How well ``|x - x_hat|`` shows lesions, how near x_hat is to the twin, what healthy images lose."""
    found = detection(np.abs(ill[field] - x_hat), np.abs(well[field] - kept), ill["mask"])
    twin = ill.get(field + "0")
    if twin is not None:
        found["twin_psnr"] = np.asarray(psnr(x_hat, twin, data_range=measures.RANGE))
        found["twin_psnr_input"] = np.asarray(psnr(ill[field], twin, data_range=measures.RANGE))
    return found | {"healthy_psnr": np.asarray(psnr(kept, well[field], data_range=measures.RANGE))}


def detection(
    score: Float[np.ndarray, "n ..."],
    score_well: Float[np.ndarray, "n ..."],
    mask: Float[np.ndarray, "n ..."],
) -> dict[str, measures.Value]:
    """Of maps on images with lesions, and on others: pixels within the first, images against each other.

    An image scores what its hundredth highest pixel does, of a thousand.
    """
    n, truth = len(score), np.asarray(mask) > 0
    images_of = [np.quantile(s.reshape(len(s), -1), 0.99, axis=1) for s in (score, score_well)]
    return {
        "pixel_auroc": measures.pooled(auroc, n, score, truth),
        "best_dice": measures.pooled(lambda s, m: best_dice(s, m).value, n, score, truth),
        "image_auroc": auroc(np.concatenate(images_of), np.repeat([True, False], [n, len(score_well)])),
    }


def baselines(prior: Prior, ill: Mapping[str, Any], well: Mapping[str, Any]) -> dict[str, Any]:
    """The image itself, its distance to the mean healthy image, and to the healthy images' principal axes."""
    x, y = ill[prior.field], well[prior.field]
    healthy = prior.cases.training(1000, HEALTHY)[prior.field].reshape(-1, x[0].size)
    mean = healthy.mean(axis=0)
    axes = np.linalg.svd(healthy - mean, full_matrices=False)[2][: prior.config.eval.components]

    def residual(v: np.ndarray) -> np.ndarray:
        centred = v.reshape(len(v), -1) - mean
        return np.abs(centred - centred @ axes.T @ axes).reshape(v.shape)

    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "intensity": lambda v: v,
        "mean": lambda v: np.abs(v - mean.reshape(v[0].shape)),
        "pca": residual,
    }
    return {name: detection(way(x), way(y), ill["mask"]) for name, way in ways.items()}


def _grid(process: Any, depth: float, steps: int) -> Array:
    """Evenly spaced times from a depth in (0, 1] of the process down to its least noise."""
    checks.require(0 < depth <= 1, "config.eval.depth", depth, "in (0, 1]")
    return jnp.linspace(depth * process.t_max, jnp.maximum(process.t_min, 1e-3), steps + 1)


def _columns(prior: Prior, ill: Mapping[str, Any], shown: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = ill[prior.field]
    columns = {"image": x, "lesion": 2 * ill["mask"] - 1}
    for name, x_hat in shown.items():
        columns |= {
            name or "partial noising": x_hat,
            f"|difference| {name}".strip(): 2 * np.abs(x - x_hat) - 1,
        }
    return columns
