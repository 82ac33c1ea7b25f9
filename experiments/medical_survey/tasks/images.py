"""What five applications share: a network that knows what images look like, with and without a lesion.

It is conditioned on the image's label, which training leaves out now and then; learnt beside it, where
``config.classifier`` asks for one, is a classifier of noisy images, whose gradient guides. Trained once, it
serves every task that is built on it: one run's folder may be evaluated under each of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from diffax.models import NoisyClassifier
from diffax.processes import perturb
from diffax.training.step import Batch, LossFn
from diffax.types import Cond, Params
from experiments import build
from experiments.medical_survey.tasks import base
from experiments.medical_survey.tasks.cases import Cases, blank, open_cases

NULL = -1  # the label that asks for no class


class Prior(NamedTuple):
    """The networks, and the cases they learn from."""

    config: ConfigDict
    model: base.Model
    classifier: NoisyClassifier | None
    cases: Cases
    needs: tuple[str, ...]

    @property
    def field(self) -> str:
        """The field of a case that holds the image."""
        return str(self.config.data.image)


def make_prior(config: ConfigDict, *more: str) -> Prior:
    """The networks of a configuration; ``more`` fields are those that its evaluation reads."""
    classes = config.data.classes
    needs = (config.data.image, *(("label",) if classes else ()), *more)
    size, dims = config.data.size, config.data.dims

    def example(batch: Batch, key: Key[Array, ""]) -> base.Example:
        cond = {"label": batch["label"]} if classes else {}
        return base.Example(batch[config.data.image], cond)

    network = base.make_network(config, num_classes=classes)
    model = base.Model(network, build.make_process(config.process), (size,) * dims + (1,), example)
    patch = config.model.patch_size
    classifier = NoisyClassifier(classes, 24, (24, 48, 48), patch) if config.classifier else None
    return Prior(config, model, classifier, open_cases(config, needs), needs)


def init(prior: Prior, key: Key[Array, ""]) -> dict[str, Params]:
    """Parameters of both networks."""
    cases = blank(prior.config, prior.needs)
    found = {"model": base.init_params(prior.model, cases, key)}
    if prior.classifier:
        x = jnp.zeros((1, *prior.model.shape))
        found["classifier"] = prior.classifier.init(key, x, jnp.zeros(1))["params"]
    return found


def losses(prior: Prior) -> dict[str, LossFn]:
    """The denoising loss, and the classifier's cross-entropy at the same noise levels."""
    found = {"model": base.make_loss(prior.config, prior.model)}
    if prior.classifier:
        found["classifier"] = _classifier_loss(prior)
    return found


def condition(labels: Int[Array, "b"]) -> Cond:
    """Labels for the network; :data:`NULL` ones are ignored by it."""
    return {"label": jnp.maximum(labels, 0), "unconditional": labels < 0}


def log_probabilities(
    prior: Prior, params: Params, x: Float[Array, "b ..."], t: Float[Array, "b"]
) -> Float[Array, "b k"]:
    """log p(label | x_t)."""
    assert prior.classifier is not None
    return jax.nn.log_softmax(prior.classifier.apply({"params": params}, x, t))


def _classifier_loss(prior: Prior) -> LossFn:
    times = build.make_times({"name": "stratified"})
    process = prior.model.process

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        time_key, noise_key = jax.random.split(key)
        x0, label = batch[prior.field], batch["label"]
        t = times(time_key, process, x0.shape[0])
        x = perturb(process, x0, jax.random.normal(noise_key, x0.shape), t)
        logits = prior.classifier.apply({"params": params}, x, t)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label)), {}

    return loss_fn
