r"""RadRotator: a denoiser of the wanted view, given a radiograph of the patient and the rotation to it.

The radiograph is appended to the channels of x_t, the rotation goes through a perceptron into the time's
embedding, and is left out for a tenth of the samples, so that guidance can stress it (the radiograph is never
left out). The network predicts v under a cosine schedule that ends at no signal at all (zero terminal SNR):
there the estimate of x0 is the mean of all views that fit, which is what the regression objective trains.
Rouzrokh et al. 2024 (arXiv:2404.13000).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import bind, checks, sample
from diffax.guidance import classifier_free, compose, static_threshold
from diffax.losses import denoising_loss
from diffax.processes import GaussianProcess
from diffax.training import TrainState, distributed
from diffax.training.step import Batch, LossFn
from diffax.types import ApplyFn, Cond, DenoiseFn, Keys, Params
from experiments import build
from experiments.radrotator.views import Pairs, flat_views, make_arm, rotations_of

OBJECTIVES = ("diffusion", "regression", "student")
Rotate = Callable[[Params, Keys, Array, Array], Array]  # (params, keys, radiographs, vectors) -> views


def condition(
    image: Float[Array, "b h w 1"], vector: Float[Array, "b 3"], given: Array | bool = True
) -> Cond:
    """What the network is told: the radiograph, the rotation, and ``given``: where the rotation counts."""
    return {
        "concat": image,
        "vector": vector,
        "given": jnp.broadcast_to(jnp.asarray(given), vector.shape[:1]),
    }


def aligned(config: ConfigDict, apply_fn: ApplyFn) -> ApplyFn:
    """With ``config.align`` a network that sees the radiograph a second time, turned as a flat sheet.

    The sheet stands ``config.align_mm`` before the isocentre (:func:`flat_views`), so that what is left to
    draw lies near where it was; where the rotation does not count it is not turned. Ours, not the paper's.
    """
    if not config.align:
        return apply_fn
    arm, limit = make_arm(config), config.angles.limit

    def look(params: Params, x: Array, time: Array, cond: Cond | None) -> Array:
        assert cond is not None
        image, given = cond["concat"], cond["given"][:, None, None, None]
        turned = flat_views(arm, image, rotations_of(cond["vector"] * limit), config.align_mm)
        both = jnp.concatenate([image, jnp.where(given, turned, image)], axis=-1)
        return apply_fn(params, x, time, {**cond, "concat": both})

    return look


def make_denoiser(
    config: ConfigDict, apply_fn: ApplyFn, params: Params, process: GaussianProcess
) -> DenoiseFn:
    """The network, which predicts v, as an estimate of the view."""
    look = aligned(config, apply_fn)
    return bind(look, params, process=process, output=config.output, time_input=config.time_input)


def estimate(
    denoise: DenoiseFn, process: GaussianProcess, image: Float[Array, "b h w 1"], vector: Float[Array, "b 3"]
) -> Float[Array, "b h w 1"]:
    """The view that is right on average: the denoiser's answer to no signal, and no noise either."""
    return denoise(jnp.zeros_like(image), jnp.full(image.shape[:1], process.t_max), condition(image, vector))


def init_params(config: ConfigDict, model: nn.Module, key: Key[Array, ""]) -> Params:
    """Parameters for radiographs of the configuration's size."""
    blank = jnp.zeros((1, config.arm.size, config.arm.size, 1))
    cond = condition(blank, jnp.zeros((1, 3)))

    def init(params: Params, x: Array, time: Array, cond: Cond | None) -> Params:
        return model.init(key, x, time, cond)["params"]

    return aligned(config, init)({}, blank, jnp.zeros(1), cond)


def make_loss(
    config: ConfigDict,
    model: nn.Module,
    process: GaussianProcess,
    draw: Callable[[Batch, Key[Array, ""]], Pairs],
) -> LossFn:
    """The denoising loss, or the squared error of :func:`estimate`, on pairs that are drawn from a batch."""
    checks.require_one_of("config.objective", config.objective, OBJECTIVES)
    times, weighting = build.make_times(config.loss.times), build.make_weighting(config.loss.weighting)

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        view_key, drop_key, dropout_key, noise_key = jax.random.split(key, 4)
        pairs = draw(batch, view_key)
        denoise = make_denoiser(config, build.make_apply(model, dropout_key), params, process)
        if config.objective == "regression":
            error = estimate(denoise, process, pairs.image, pairs.vector) - pairs.target
            return jnp.mean(error**2), {"x0_error": jnp.mean(error**2)}
        given = ~jax.random.bernoulli(drop_key, config.loss.drop_vector, pairs.vector.shape[:1])
        found = denoising_loss(
            noise_key, denoise, process, pairs.target,
            cond=condition(pairs.image, pairs.vector, given), times=times, weighting=weighting,
        )  # fmt: skip
        return found.loss, {"x0_error": jnp.mean(found.x0_error)}

    return loss_fn


def make_guidance(scale: Array | float, rescale: float) -> Callable[[DenoiseFn], DenoiseFn]:
    """Guidance by the rotation alone, with each view's deviation restored; views stay within [-1, 1]."""
    guide = (
        ()
        if isinstance(scale, float) and scale == 1.0
        else (classifier_free(scale, null={"given": jnp.asarray(False)}, rescale=rescale),)
    )
    return compose(*guide, static_threshold())


def make_rotate(config: ConfigDict, model: nn.Module, process: GaussianProcess) -> Rotate:
    """Views by the objective's own way: a chain of denoising steps, or one call of the network.

    A chain starts from noise of the key: one key for all angles keeps what the radiograph leaves open the
    same in all of them.
    """
    asked = config.sample

    def rotate(params: Params, keys: Keys, image: Array, vector: Array) -> Array:
        denoise = make_denoiser(config, build.make_apply(model), params, process)
        if config.objective == "regression":
            return jnp.clip(estimate(denoise, process, image, vector), -1, 1)
        steps = 1 if config.objective == "student" else asked.steps
        scale = 1.0 if config.objective == "student" else asked.guidance
        return sample(
            keys,
            make_guidance(scale, asked.rescale)(denoise),
            process,
            build.make_sampler(asked.sampler, process, steps),
            build.make_grid(asked.grid, process, steps),
            shape=image.shape[1:],
            cond=condition(image, vector),
        ).x

    return jax.jit(rotate)


def parameters(config: ConfigDict, state: TrainState) -> Any:
    """The averaged parameters of the network that turns radiographs."""
    net = "student" if config.objective == "student" else "model"
    return distributed.gather(state.nets[net].averaged(config.sample.ema))
