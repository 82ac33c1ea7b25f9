"""Networks, losses and answers of policies: what is seen goes in, a chunk of actions comes out.

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
from diffax.losses import denoising_loss, drop_labels
from diffax.models import ActionTransformer
from diffax.processes import GaussianProcess
from diffax.training.step import Batch, LossFn
from diffax.types import ApplyFn, Cond, DenoiseFn, Keys, Params
from experiments import build

BASELINES = ("dense", "wide", "regression")
Normalisers = Mapping[str, Normaliser]  # of "state" and "action"
# act(params, normalisers, keys, seen (n, h, o), task (n,)) -> actions (n, horizon, a) in the data's units
Act = Callable[[Params, Normalisers, Keys, Array, Array], Array]


class Policy(NamedTuple):
    """A network and how it answers; ``goals``: each task's vector; ``shape``: of a chunk of actions."""

    network: ActionTransformer
    process: GaussianProcess
    goals: Float[np.ndarray, "tasks g"] | None
    shape: tuple[int, int]
    regression: bool = False


def make_policies(
    config: ConfigDict, goals: Float[np.ndarray, "tasks g"] | None, actions: int
) -> dict[str, Policy]:
    """The policy "model" and those of ``config.baselines``."""
    process = build.make_process(config.process)
    shape = (config.data.horizon, actions)
    found = {}
    for name in ("model", *config.baselines):
        checks.require_one_of("config.baselines", name, ("model", *BASELINES))
        module = build.make_module(ActionTransformer, "model", network_fields(config, name))
        found[name] = Policy(module, process, goals, shape, name == "regression")
    return found


def network_fields(config: ConfigDict, name: str) -> dict[str, Any]:
    """Of a policy's network: baselines have one expert, as wide as those that run, or as all together."""
    model = config.model.to_dict()
    if name == "model":
        return model
    share = model["experts"] if name == "wide" else model["top_k"]
    return model | {"experts": 1, "top_k": 1, "shared_expert": False, "mlp_ratio": share * model["mlp_ratio"]}


def condition(policy: Policy, seen: Float[Array, "n h o"], task: Int[Array, "n"]) -> dict[str, Array]:
    """What the network is told, from normalised observations and tasks."""
    told = {"observation": seen[:, :, None]}
    return told if policy.goals is None else told | {"goal": jnp.asarray(policy.goals)[task]}


def init_params(policy: Policy, batch: Batch, key: Key[Array, ""]) -> Params:
    """Parameters for batches like the given one."""
    few = {name: jnp.asarray(value)[:1] for name, value in batch.items()}
    cond = condition(policy, few["state"], few["task"])
    return policy.network.init(key, few["action"], jnp.zeros(len(few["action"])), cond)["params"]


def denoiser(config: ConfigDict, policy: Policy, params: Params, apply_fn: ApplyFn) -> DenoiseFn:
    """The network under the preconditioning of Karras et al. 2022."""
    options = {"output": "F", "sigma_data": config.sigma_data, "time_input": "c_noise"}
    return bind(apply_fn, params, process=policy.process, **options)


def make_loss(config: ConfigDict, policy: Policy) -> LossFn:
    """The denoising loss over real actions plus the experts' balance; or a regression's squared error."""
    times, weighting = build.make_times(config.loss.times), build.make_weighting(config.loss.weighting)

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        drop_key, network_key, noise_key = jax.random.split(key, 3)
        balance: list[Array] = []

        def apply_fn(params: Params, x: Array, time: Array, cond: Cond | None) -> Array:
            variables, rngs = {"params": params}, {"dropout": network_key}
            out, kept = policy.network.apply(variables, x, time, cond, True, rngs=rngs, mutable=["losses"])
            balance.extend(jax.tree.leaves(kept))
            return out

        x0, mask = batch["action"], batch["mask"][..., None]
        cond: Cond = condition(policy, batch["state"], batch["task"])
        if config.loss.drop_goal:
            cond = drop_labels(drop_key, cond, config.loss.drop_goal)
        if policy.regression:
            out = apply_fn(params, jnp.zeros_like(x0), jnp.zeros(x0.shape[0]), cond)
            loss = jnp.mean(mask * (out - x0) ** 2) / jnp.mean(mask)
        else:
            denoise = denoiser(config, policy, params, apply_fn)
            options = {"times": times, "weighting": weighting, "mask": mask}
            loss = denoising_loss(noise_key, denoise, policy.process, x0, cond=cond, **options).loss
        even = sum(balance, jnp.zeros(())) / max(1, len(balance))
        return loss + config.loss.balance * even, {"balance": even}

    return loss_fn


def make_act(config: ConfigDict, policy: Policy) -> Act:
    """Answers of a policy, in the units of its data; to be jitted together with what it drives."""
    asked = config.sample
    sampler = build.make_sampler(asked.sampler, policy.process, asked.steps)
    grid = build.make_grid(asked.grid, policy.process, asked.steps)
    guide = build.make_guidance(asked.guidance, "none")
    apply_fn = build.make_apply(policy.network)

    def act(params: Params, normalisers: Normalisers, keys: Keys, seen: Array, task: Array) -> Array:
        cond = condition(policy, normalisers["state"](seen), task)
        if policy.regression:
            still = jnp.zeros((task.shape[0], *policy.shape))
            found = apply_fn(params, still, jnp.zeros(task.shape), cond)
        else:
            denoise = guide(denoiser(config, policy, params, apply_fn))
            found = sample(keys, denoise, policy.process, sampler, grid, shape=policy.shape, cond=cond).x
        return normalisers["action"].undo(found)

    return act
