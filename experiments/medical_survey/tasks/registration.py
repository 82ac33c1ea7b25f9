r"""Registration: the noise that a denoiser finds in an image tells a second network how another must bend.

A network ``eps_hat`` sees the moving and the fixed image and the fixed one with noise; a second one makes
the flow of the moving image and ``eps_hat``. They learn together, from

    |eps - eps_hat|^2 + lambda (-NCC(warp(moving, flow), fixed)) + lambda_s |differences of the flow|^2
        + lambda_p |flow(moving, eta eps_hat) - eta flow(moving, eps_hat)|^2 .

The last term is ours (``config.loss.path = 0`` leaves it out): without it some pairs step back on the way of
eta. To register, the fixed image itself takes the place of the noisy one, and ``eta eps_hat`` with eta in
[0, 1] gives registrations on the way (Kim et al. 2022, DiffuseMorph, arXiv:2112.05149). The fixed image
reaches the flow through ``eps_hat`` alone, so what eta scales is all that is known of the deformation.

Baselines: the network of the flow without diffusion, which sees the fixed image in place of ``eps_hat``
(Balakrishnan et al. 2019, VoxelMorph, arXiv:1809.05231) and gets the same batches and steps; its way from 0
to 1 is ``eta`` times its flow. Demons (``experiments.medical_survey.demons``). No flow, the true one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax.operators.warping import local_ncc, smoothness, warp
from diffax.processes import GaussianProcess, perturb
from diffax.training.step import Batch, LossFn
from diffax.types import Params
from experiments import build
from experiments.medical_survey.tasks import base, registration_figures
from experiments.medical_survey.tasks.cases import blank, open_cases
from experiments.medical_survey.tasks.warped_pairs import Pairs, fields, make_pairs

Images = Float[Array, "b h w 1"]
Flow = Float[Array, "b h w 2"]


class Networks(NamedTuple):
    """The noise's and the flow's, and the diffusion between them."""

    noise: nn.Module
    flow: nn.Module
    process: GaussianProcess

    def find_noise(
        self, params: Params, noisy: Images, t: Float[Array, "b"], moving: Images, fixed: Images
    ) -> Images:
        """``eps_hat`` of a noisy fixed image, with both images seen."""
        cond = {"concat": jnp.concatenate([moving, fixed], axis=-1)}
        return self.noise.apply({"params": params}, noisy, t, cond)

    def find_flow(self, params: Params, moving: Images, told: Images) -> Flow:
        """The flow in pixels, of the moving image and what is told of the fixed one."""
        return self.flow.apply({"params": params}, moving, jnp.zeros(len(moving)), {"concat": told})


def make_task(config: ConfigDict) -> base.Task:
    """The task on pairs of ``config.data.image`` and itself bent, or of a folder's two fields."""
    needs = fields(config)
    cases, networks = open_cases(config, needs), make_networks(config)

    def held_out(n: int) -> Pairs:
        key = jax.random.key(config.seed + 31)
        return jax.jit(lambda found: make_pairs(config, found, key))(cases.held_out(n))

    def ways(found: base.Networks) -> registration_figures.Ways:
        return make_ways(networks, found)

    def evaluate(found: base.Networks, workdir: Path) -> Mapping[str, Any]:
        return registration_figures.evaluate(
            config, held_out(config.eval.n), ways(found), workdir, cases.split
        )

    def draw(found: base.Networks, workdir: Path) -> None:
        pairs = held_out(config.sample.n)
        registration_figures.draw(pairs, ways(found)[""](pairs.moving, pairs.fixed, 1.0), workdir)

    def init(key: Key[Array, ""]) -> dict[str, Params]:
        return init_params(networks, make_pairs(config, blank(config, needs), key), key)

    losses = {"model": diffusion_loss(config, networks), "baseline": field_loss(config, networks)}
    return base.Task(needs, init, losses, evaluate, draw)


def make_networks(config: ConfigDict) -> Networks:
    """Two networks of ``config.model``, and the diffusion of ``config.process``."""
    flow = base.make_network(config, out_channels=2)
    return Networks(base.make_network(config), flow, build.make_process(config.process))


def init_params(networks: Networks, pairs: Pairs, key: Key[Array, ""]) -> dict[str, Params]:
    """Parameters of the model's two networks, and of the baseline's one."""
    moving, zeros = pairs.moving, jnp.zeros(len(pairs.moving))
    both = {"concat": jnp.concatenate([moving, moving], axis=-1)}
    keys = jax.random.split(key, 3)
    noise = networks.noise.init(keys[0], moving, zeros, both)["params"]
    flows = [networks.flow.init(k, moving, zeros, {"concat": moving})["params"] for k in keys[1:]]
    return {"model": {"noise": noise, "flow": flows[0]}, "baseline": flows[1]}


def diffusion_loss(config: ConfigDict, networks: Networks) -> LossFn:
    """The loss above; a share ``config.loss.at_zero`` of fixed images is left without noise.

    That is what registers; there is no noise to find in them, so they count in the flow's terms alone.
    """
    times, process = build.make_times(config.loss.times), networks.process

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        pair_key, time_key, noise_key, zero_key, eta_key = jax.random.split(key, 5)
        pairs = make_pairs(config, batch, pair_key)
        moving, fixed = pairs.moving, pairs.fixed
        without = jax.random.bernoulli(zero_key, config.loss.at_zero, fixed.shape[:1])
        t = jnp.where(without, process.t_min, times(time_key, process, len(fixed)))
        eps = jax.random.normal(noise_key, fixed.shape)
        noisy = jnp.where(without[:, None, None, None], fixed, perturb(process, fixed, eps, t))
        guess = networks.find_noise(params["noise"], noisy, t, moving, fixed)
        error = jnp.mean((guess - eps) ** 2, axis=(1, 2, 3))
        error = jnp.sum(jnp.where(without, 0, error)) / jnp.maximum(jnp.sum(~without), 1)
        flow = networks.find_flow(params["flow"], moving, guess)
        apart, metrics = dissimilarity(config, pairs, flow)
        few = slice(max(1, len(fixed) // 4))  # of the batch: it is another call of the network
        bent = path_error(networks, params["flow"], eta_key, moving[few], guess[few], flow[few])
        return error + apart + config.loss.path * bent, {"noise_error": error, "path": bent, **metrics}

    return loss_fn


def path_error(
    networks: Networks, params: Params, key: Key[Array, ""], moving: Images, guess: Images, flow: Flow
) -> Float[Array, ""]:
    """``|flow(moving, eta guess) - eta flow|^2`` in square pixels, eta uniform; the whole flow gets no
    gradient."""
    eta = jax.random.uniform(key, (len(moving), 1, 1, 1))
    part = networks.find_flow(params, moving, eta * guess)
    return jnp.mean((part - eta * jax.lax.stop_gradient(flow)) ** 2)


def field_loss(config: ConfigDict, networks: Networks) -> LossFn:
    """The flow's terms alone, of a network that sees both images; on the same pairs."""

    def loss_fn(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        pairs = make_pairs(config, batch, jax.random.split(key, 5)[0])
        return dissimilarity(config, pairs, networks.find_flow(params, pairs.moving, pairs.fixed))

    return loss_fn


def dissimilarity(config: ConfigDict, pairs: Pairs, flow: Flow) -> tuple[Array, dict[str, Array]]:
    """``lambda (-NCC) + lambda_s |differences of the flow|^2``, and the mean NCC; no truth is used."""
    ncc = jnp.mean(local_ncc(warp(pairs.moving, flow), pairs.fixed, config.loss.window))
    rough = jnp.mean(smoothness(flow))
    return config.loss.smoothness * rough - config.loss.similarity * ncc, {"ncc": ncc}


def make_ways(networks: Networks, found: base.Networks) -> registration_figures.Ways:
    """The two that learn, by the names of their groups: (moving, fixed, eta) -> flow."""

    @jax.jit
    def diffusion(params: Params, moving: Images, fixed: Images, eta: Array | float) -> Flow:
        t = jnp.full(len(fixed), networks.process.t_min)
        guess = networks.find_noise(params["noise"], fixed, t, moving, fixed)
        return networks.find_flow(params["flow"], moving, eta * guess)

    @jax.jit
    def field(params: Params, moving: Images, fixed: Images, eta: Array | float) -> Flow:
        return eta * networks.find_flow(params, moving, fixed)

    return {
        "": lambda moving, fixed, eta: np.asarray(diffusion(found["model"], moving, fixed, eta)),
        "field_network": lambda moving, fixed, eta: np.asarray(field(found["baseline"], moving, fixed, eta)),
    }
