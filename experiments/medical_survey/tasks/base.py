"""What an application is: networks with their losses, and what is measured once they are trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import bind, sample
from diffax.guidance import classifier_free, compose, static_threshold
from diffax.losses import denoising_loss, drop_labels
from diffax.processes import GaussianProcess
from diffax.training.step import Batch, LossFn
from diffax.types import ApplyFn, Cond, DenoiseFn, DenoiseTransform, Keys, Params
from experiments import build

Networks = Mapping[str, Params]  # averaged parameters by the network's name


class Task(NamedTuple):
    """One application under one configuration.

    * ``needs``: fields of a case that it reads, such as ``("A", "mask")``;
    * ``init(key)``: parameters of every network; ``losses``: that of each, on a batch of cases;
    * ``evaluate(networks, workdir)``: figures and rows for ``result.json``; writes pictures;
    * ``draw(networks, workdir)``: pictures alone.
    """

    needs: tuple[str, ...]
    init: Callable[[Key[Array, ""]], dict[str, Params]]
    losses: Mapping[str, LossFn]
    evaluate: Callable[[Networks, Path], Mapping[str, Any]]
    draw: Callable[[Networks, Path], None]


class Example(NamedTuple):
    """What a denoiser learns from: clean images and what it is told of them."""

    x0: Float[Array, "b h w c"]
    cond: Cond


class Model(NamedTuple):
    """A network that learns ``E[x0 | x_t, cond]`` of the examples that are made from a batch of cases."""

    network: nn.Module
    process: GaussianProcess
    shape: tuple[int, ...]  # of one x0
    example: Callable[[Batch, Key[Array, ""]], Example]


def make_network(config: ConfigDict, **fields: Any) -> nn.Module:
    """The network of ``config.model`` with what a task adds to its fields."""
    classes = fields.pop("num_classes", 0)
    return build.make_model({**config.model.to_dict(), **fields}, classes)


def denoiser(config: ConfigDict, model: Model, params: Params, apply_fn: ApplyFn | None = None) -> DenoiseFn:
    """The network as ``E[x0 | x_t, cond]``."""
    apply_fn = apply_fn or build.make_apply(model.network)
    return bind(apply_fn, params, process=model.process, output=config.output, time_input=config.time_input)


def init_params(model: Model, cases: Batch, key: Key[Array, ""]) -> Params:
    """Parameters for cases like the given ones (two of them; arrays or shapes)."""
    x0, cond = model.example(cases, jax.random.key(0))
    return model.network.init(key, x0, jnp.zeros(x0.shape[:1]), cond)["params"]


def make_loss(config: ConfigDict, model: Model) -> LossFn:
    """The denoising loss; conditions drop out together with probability ``config.loss.drop_labels``."""
    times, weighting = build.make_times(config.loss.times), build.make_weighting(config.loss.weighting)

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        example_key, drop_key, dropout_key, noise_key = jax.random.split(key, 4)
        x0, cond = model.example(batch, example_key)
        if cond and config.loss.drop_labels:
            cond = drop_labels(drop_key, cond, config.loss.drop_labels)
        denoise = denoiser(config, model, params, build.make_apply(model.network, dropout_key))
        found = denoising_loss(
            noise_key, denoise, model.process, x0, cond=cond, times=times, weighting=weighting
        )
        return found.loss, {"x0_error": jnp.mean(found.x0_error)}

    return loss_fn


def make_sample(
    config: ConfigDict, model: Model, transform: DenoiseTransform, steps: int = 0
) -> Callable[[Params, Keys, Cond], Array]:
    """A jitted ``(params, keys, cond) -> images`` by ``config.sample``'s sampler, one key an image.

    ``steps``: instead of those of ``config.sample``.
    """
    asked, process = config.sample, model.process
    count = steps or asked.steps
    sampler = build.make_sampler(asked.sampler, process, count)
    grid = build.make_grid(asked.grid, process, count)

    @jax.jit
    def generate(params: Params, keys: Keys, cond: Cond) -> Array:
        denoise = transform(denoiser(config, model, params))
        return sample(keys, denoise, process, sampler, grid, shape=model.shape, cond=cond).x

    return generate


def guided(scale: float) -> DenoiseTransform:
    """Classifier-free guidance, then estimates within reach of [-1, 1].

    Not at -1 itself: air lies there, estimates scatter about it, and cutting one side off at every step makes
    it brighter (a quarter of the Frechet distance of heads).
    """
    clipped = static_threshold(-1.1, 1.1)
    return clipped if scale == 1 else compose(classifier_free(scale), clipped)
