"""What two applications share: images from images, by a conditional denoiser and by a network that regresses.

Both networks are the same U-Net, get the same batches and as many steps. The denoiser sees the input beside
x_t; the other sees the input beside zeros, and answers at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax.training.step import Batch, LossFn
from diffax.types import Params
from experiments import build
from experiments.medical_survey.tasks import base
from experiments.medical_survey.tasks.cases import blank

Targets = Callable[[Batch, Key[Array, ""]], Float[Array, "b h w c"]]
ErrorFn = Callable[[Array, Array], Array]  # (output, target) -> errors


def make_model(
    config: ConfigDict, inputs: Callable[[Batch], Float[Array, "b h w c"]], targets: Targets
) -> base.Model:
    """The denoiser of targets given inputs."""

    def example(batch: Batch, key: Key[Array, ""]) -> base.Example:
        return base.Example(targets(batch, key), {"concat": inputs(batch)})

    size = config.data.size
    process = build.make_process(config.process)
    return base.Model(base.make_network(config), process, (size, size, 1), example)


def init(config: ConfigDict, model: base.Model, needs: tuple[str, ...]) -> Callable[..., dict[str, Params]]:
    """Parameters of the denoiser, "model", and of the baseline."""
    cases = blank(config, needs)

    def make(key: Key[Array, ""]) -> dict[str, Params]:
        keys = jax.random.split(key)
        return {name: base.init_params(model, cases, k) for name, k in zip(("model", "baseline"), keys)}

    return make


def losses(config: ConfigDict, model: base.Model, error: ErrorFn) -> dict[str, LossFn]:
    """The denoising loss, and the baseline's error on the same examples."""

    def baseline(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        x0, cond = model.example(batch, jax.random.split(key, 4)[0])
        return jnp.mean(error(answer(model.network, params, cond["concat"]), x0)), {}

    return {"model": base.make_loss(config, model), "baseline": baseline}


def answer(network: nn.Module, params: Params, inputs: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    """What the baseline says of its inputs."""
    nothing = jnp.zeros((*inputs.shape[:-1], 1))
    return network.apply({"params": params}, nothing, jnp.zeros(len(inputs)), {"concat": inputs})


def draws(
    config: ConfigDict, model: base.Model, params: Params, inputs: Any, count: int
) -> Float[Array, "d b h w 1"]:
    """``count`` samples of the target for each input."""
    run = base.make_sample(config, model, build.make_guidance(1.0, "static"))
    keys = jax.random.split(jax.random.key(config.seed + 28), (count, len(inputs)))
    cond = {"concat": jnp.asarray(inputs)}
    return jnp.stack([run(params, k, cond) for k in keys])
