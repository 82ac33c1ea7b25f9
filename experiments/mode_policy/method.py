"""Networks, losses and answers of policies: what is seen goes in, a chunk of actions comes out.

What is seen is a mapping: "state", (n, h, o) of h past steps, and "images", each camera's bytes
(n, h, y, x, 3).

A diffusion policy learns ``E[a | a + sigma eps, observation, goal]`` and draws actions by the library's
samplers; a regression answers with the mean of actions. Reuss et al. 2025 (arXiv:2412.12953).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from diffax import bind, checks, sample
from diffax.data.episodes import Normaliser
from diffax.io import seed_keys
from diffax.losses import denoising_loss, drop_labels
from diffax.models import ActionTransformer, apply_cached, build_cache, normalise_images
from diffax.models.expert_cache import ExpertCache
from diffax.processes import GaussianProcess, marginal
from diffax.training.step import Batch, LossFn
from diffax.types import ApplyFn, Cond, DenoiseFn, Keys, Params
from experiments import build

BASELINES = ("dense", "wide", "regression", "no_goal")
Normalisers = Mapping[str, Normaliser]  # of "state" and "action"
Seen = Mapping[str, Any]  # "state" and "images" of n samples
# act(params, normalisers, keys, seen, task (n,)) -> actions (n, horizon, a) in the data's units
Act = Callable[[Params, Normalisers, Keys, Seen, Array], Array]


class Recipe(NamedTuple):
    """A network and how it answers; ``goals``: each task's vector; ``shape``: of a chunk of actions;
    ``cameras``: whose images it sees."""

    network: ActionTransformer
    process: GaussianProcess
    goals: Float[np.ndarray, "tasks g"] | None
    shape: tuple[int, int]
    cameras: tuple[str, ...] = ()
    regression: bool = False


class Trained(NamedTuple):
    """Policies by name, their weights, and what normalises states and actions."""

    config: ConfigDict
    recipes: Mapping[str, Recipe]
    nets: Mapping[str, Params]
    normalisers: Normalisers


def make_recipes(
    config: ConfigDict, goals: Float[np.ndarray, "tasks g"] | None, actions: int
) -> dict[str, Recipe]:
    """The policy "model" and those of ``config.baselines``."""
    process = build.make_process(config.process)
    shape = (config.data.horizon, actions)
    found = {}
    for name in ("model", *config.baselines):
        checks.require_one_of("config.baselines", name, ("model", *BASELINES))
        module = build.make_module(ActionTransformer, "model", network_fields(config, name))
        module.check_options()
        told = None if name == "no_goal" else goals
        cameras = tuple(config.data.images)
        found[name] = Recipe(module, process, told, shape, cameras, name == "regression")
    return found


def network_fields(config: ConfigDict, name: str) -> dict[str, Any]:
    """Of a policy's network: dense ones have one expert, as wide as those that run, or as all together."""
    model = config.model.to_dict()
    if name in ("model", "no_goal"):
        return model
    share = model["experts"] if name == "wide" else model["top_k"]
    return model | {"experts": 1, "top_k": 1, "shared_expert": False, "mlp_ratio": share * model["mlp_ratio"]}


def condition(recipe: Recipe, seen: Seen, task: Int[Array, "n"]) -> dict[str, Any]:
    """What the network is told, from normalised states, images and tasks."""
    told: dict[str, Any] = {"observation": seen["state"][:, :, None]}
    if recipe.cameras:
        told["images"] = {name: normalise_images(seen["images"][name]) for name in recipe.cameras}
    return told if recipe.goals is None else told | {"goal": jnp.asarray(recipe.goals)[task]}


def look(recipe: Recipe, batch: Batch) -> Seen:
    """What windows have seen."""
    return {"state": batch["state"], "images": {name: batch[name] for name in recipe.cameras}}


def init_params(recipe: Recipe, batch: Batch, key: Key[Array, ""]) -> Params:
    """Parameters for batches like the given one."""
    few = {name: jnp.asarray(value)[:1] for name, value in batch.items()}
    cond = condition(recipe, look(recipe, few), few["task"])
    return recipe.network.init(key, few["action"], jnp.zeros(len(few["action"])), cond)["params"]


def denoiser(config: ConfigDict, recipe: Recipe, params: Params, apply_fn: ApplyFn) -> DenoiseFn:
    """The network under the preconditioning of Karras et al. 2022."""
    options = {"output": "F", "sigma_data": config.sigma_data, "time_input": "c_noise"}
    return bind(apply_fn, params, process=recipe.process, **options)


def make_loss(config: ConfigDict, recipe: Recipe) -> LossFn:
    """The denoising loss over real actions plus the experts' balance; or a regression's squared error."""
    times, weighting = build.make_times(config.loss.times), build.make_weighting(config.loss.weighting)

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        drop_key, network_key, noise_key = jax.random.split(key, 3)
        balance: list[Array] = []

        def apply_fn(params: Params, x: Array, time: Array, cond: Cond | None) -> Array:
            variables, rngs = {"params": params}, {"dropout": network_key}
            out, kept = recipe.network.apply(variables, x, time, cond, True, rngs=rngs, mutable=["losses"])
            balance.extend(jax.tree.leaves(kept))
            return out

        x0, mask = batch["action"], batch["mask"][..., None]
        cond: Cond = condition(recipe, look(recipe, batch), batch["task"])
        if config.loss.drop_goal:
            cond = drop_labels(drop_key, cond, config.loss.drop_goal)
        if recipe.regression:
            out = apply_fn(params, jnp.zeros_like(x0), jnp.zeros(x0.shape[0]), cond)
            loss = jnp.mean(mask * (out - x0) ** 2) / jnp.mean(mask)
        else:
            denoise = denoiser(config, recipe, params, apply_fn)
            options = {"times": times, "weighting": weighting, "mask": mask}
            loss = denoising_loss(noise_key, denoise, recipe.process, x0, cond=cond, **options).loss
        even = sum(balance, jnp.zeros(())) / max(1, len(balance))
        return loss + config.loss.balance * even, {"balance": even}

    return loss_fn


def make_act(config: ConfigDict, recipe: Recipe) -> Act:
    """Answers of a policy, in the units of its data; to be jitted together with what it drives.

    Parameters are the network's, or a cache of its experts (:func:`prepare`). Images are encoded once, not at
    every step, but where guidance needs features without the goal too.
    """
    sampler = build.make_sampler(config.sample.sampler, recipe.process, config.sample.steps)
    grid = make_grid(config, recipe)
    guide = build.make_guidance(config.sample.guidance, "none")
    plain, cached = build.make_apply(recipe.network), apply_cached(recipe.network)

    def act(params: Params, normalisers: Normalisers, keys: Keys, seen: Seen, task: Array) -> Array:
        apply_fn, weights = (cached, params.params) if isinstance(params, ExpertCache) else (plain, params)
        cond = condition(recipe, {**seen, "state": normalisers["state"](seen["state"])}, task)
        if recipe.cameras and config.sample.guidance == 1:
            cond = recipe.network.apply({"params": weights}, cond, method="encode")
        if recipe.regression:
            still = jnp.zeros((task.shape[0], *recipe.shape))
            found = apply_fn(params, still, jnp.zeros(task.shape), cond)
        else:
            denoise = guide(denoiser(config, recipe, params, apply_fn))
            found = sample(keys, denoise, recipe.process, sampler, grid, shape=recipe.shape, cond=cond).x
        return normalisers["action"].undo(found)

    return act


def make_grid(config: ConfigDict, recipe: Recipe) -> Float[Array, "points"]:
    """The noise levels of sampling."""
    return build.make_grid(config.sample.grid, recipe.process, config.sample.steps)


def prepare(config: ConfigDict, recipe: Recipe, params: Params) -> Params | ExpertCache:
    """The experts of every step of the sampler, chosen once, where the noise level alone chooses them."""
    network = recipe.network
    if recipe.regression or network.experts == 1 or network.router != "noise":
        return params
    levels = make_grid(config, recipe)[:-1]
    # log(sigma / alpha) / 4, the time that the network reads
    return build_cache(network, params, -0.125 * marginal(recipe.process, levels).log_snr)


def answers(trained: Trained, name: str = "model") -> Callable[[Array, Seen, Array], Array]:
    """A policy as ``f(seeds (n,), seen, task (n,)) -> actions``, compiled, its experts chosen."""
    recipe = trained.recipes[name]
    act = make_act(trained.config, recipe)
    params = prepare(trained.config, recipe, trained.nets[name])

    @jax.jit
    def run(params: Params, seeds: Array, seen: Seen, task: Array) -> Array:
        return act(params, trained.normalisers, seed_keys(seeds), seen, task)

    return lambda seeds, seen, task: run(params, seeds, seen, task)
