"""Classification by a generative model: which label explains an image best, what its network knows inside.

* *diffusion classifier* (Li et al. 2023, arXiv:2303.16203): the label under which the network removes noise
  with the least error, the same noises for each label;
* *features*: the network's inner activations at a little noise, and a logistic regression on them from
  ``config.eval.labelled`` images (Baranchuk et al. 2022, arXiv:2112.03126);
* the classifier of noisy images that is learnt beside the network, at no noise.

The baseline is a convolutional network on the same labels: all of them, or as few as the features had.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.data import ArraySource
from diffax.evaluation import auroc, train_classifier
from diffax.models import apply_keeping
from diffax.processes import perturb, times
from diffax.types import Params
from experiments.medical_survey.tasks import base, images, measures, pictures
from experiments.medical_survey.tasks.images import NULL, Prior, condition

Labels = Int[np.ndarray, "n"]


def make_task(config: ConfigDict) -> base.Task:
    """The task for ``config.data.classes`` labels."""
    checks.require(config.data.classes >= 2, "config.data.classes", config.data.classes, "2 or more")
    prior = images.make_prior(config)

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        test = prior.cases.held_out(config.eval.n)
        few, many = prior.cases.training(config.eval.labelled), prior.cases.training(config.eval.cnn_images)
        x, truth = test[prior.field], test["label"]
        scores = {
            "": -denoising_errors(prior, networks["model"], x),
            "features": probe(prior, networks["model"], few, x),
            f"cnn_{config.eval.labelled}": cnn(prior, few, test),
            "cnn": cnn(prior, many, test),
        }
        if prior.classifier:
            clean = jnp.zeros(len(x))
            found = images.log_probabilities(prior, networks["classifier"], jnp.asarray(x), clean)
            scores["noisy_classifier"] = np.asarray(found)
        _picture(workdir / "classified.png", x, truth, scores[""])
        about = {"n_real": len(x), "split": prior.cases.split, "seed": config.seed}
        return measures.report({name: measure(s, truth) for name, s in scores.items()}, **about)

    def draw(networks: base.Networks, workdir: Path) -> None:
        test = prior.cases.held_out(config.sample.n)
        scores = -denoising_errors(prior, networks["model"], test[prior.field])
        _picture(workdir / "samples-classified.png", test[prior.field], test["label"], scores)

    return base.Task(prior.needs, lambda key: images.init(prior, key), images.losses(prior), evaluate, draw)


def measure(scores: Float[np.ndarray, "n k"], truth: Labels) -> dict[str, measures.Value]:
    """Accuracy; with two classes also the area under the ROC curve of the difference of scores."""
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    if scores.shape[1] != 2:
        return {"accuracy": right}
    difference = scores[:, 1] - scores[:, 0]
    return {"accuracy": right, "auroc": measures.pooled(auroc, len(truth), difference, truth > 0)}


def denoising_errors(prior: Prior, params: Params, x: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n k"]:
    """Mean squared error of x0 under each label, over noise levels in ``config.eval.levels`` and noises."""
    asked, classes = prior.config.eval, prior.config.data.classes
    process = prior.model.process
    low, high = (times.of_level(process, jnp.asarray(level)) for level in asked.levels)
    at = jnp.linspace(low, high, asked.noises)

    @jax.jit
    def errors(x: Array, key: Key[Array, ""]) -> Array:
        denoise = base.denoiser(prior.config, prior.model, params)

        def one(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
            key, t = inputs
            t = jnp.full(x.shape[:1], t)
            noisy = perturb(process, x, jax.random.normal(key, x.shape), t)
            by_label = [
                jnp.mean((denoise(noisy, t, condition(jnp.full(x.shape[:1], c))) - x) ** 2, (1, 2, 3))
                for c in range(classes)
            ]
            weight = (process.alpha(t) / process.sigma(t)) ** 2
            return total + weight[:, None] * jnp.stack(by_label, axis=1), None

        keys = jax.random.split(key, len(at))
        return jax.lax.scan(one, jnp.zeros((x.shape[0], classes)), (keys, at))[0] / len(at)

    return np.asarray(errors(jnp.asarray(x), jax.random.key(prior.config.seed + 26)))


def features(prior: Prior, params: Params, x: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n f"]:
    """Means and largest values over pixels of the network's inner activations, at a little noise."""
    process = prior.model.process
    t = jnp.full(len(x), times.of_level(process, jnp.asarray(prior.config.eval.feature_level)))

    @jax.jit
    def inside(x: Array, key: Key[Array, ""]) -> Array:
        noisy = perturb(process, x, jax.random.normal(key, x.shape), t)
        null = condition(jnp.full(x.shape[:1], NULL))
        _, kept = apply_keeping(prior.model.network, params, noisy, t, null)
        parts = [(jnp.mean(v, (1, 2)), jnp.max(v, (1, 2))) for _, v in sorted(kept.items())]
        return jnp.concatenate([p for pair in parts for p in pair], axis=1)

    return np.asarray(inside(jnp.asarray(x), jax.random.key(prior.config.seed + 27)))


def probe(
    prior: Prior, params: Params, few: Mapping[str, np.ndarray], x: Float[np.ndarray, "n ..."]
) -> Float[np.ndarray, "n k"]:
    """Log-probabilities of a logistic regression on the network's features of a few labelled images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    fitted.fit(features(prior, params, few[prior.field]), few["label"])
    return np.asarray(fitted.predict_log_proba(features(prior, params, x)))


def cnn(
    prior: Prior, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "n k"]:
    """Logits of a small convolutional network."""
    sources = [ArraySource(c[prior.field], c["label"]) for c in (train, test)]
    steps = prior.config.eval.cnn_steps
    found = train_classifier(*sources, seed=prior.config.seed, steps=steps)
    return np.asarray(found.logits(jnp.asarray(test[prior.field])))


def _picture(path: Path, x: np.ndarray, truth: Labels, scores: Float[np.ndarray, "n k"]) -> None:
    """Images in columns by what they are and what they are called."""
    called = scores.argmax(axis=1)
    columns = {}
    for label in range(scores.shape[1]):
        for guess in range(scores.shape[1]):
            chosen = x[(truth == label) & (called == guess)][:6]
            blank = np.ones((6 - len(chosen), *x.shape[1:]), x.dtype)
            columns[f"is {label}, called {guess}"] = np.concatenate([chosen, blank])
    pictures.rows(path, columns)
