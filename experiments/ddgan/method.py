r"""Denoising diffusion GANs: a generator that draws x0 given x_t, so that few large steps suffice.

    p(x_s | x_t) = E_z q(x_s | x_t, x0 = G(x_t, z, t)),   z ~ N(0, I)
    D tells real pairs (x_s, x_t) from pairs (x_s' ~ p(. | x_t), x_t)

Xiao, Kreis, Vahdat 2022 (arXiv:2112.07804), section 4. The chain is the VP SDE at T + 1 equally spaced times.
Ablations of its section 5.3: no latent, ``direct`` (G draws x_s itself), and the objectives

    l2          |G(x_t, t) - x0|^2, no discriminator
    augmented   one shot: x0 = G(noise, z); D tells noised real from noised drawn images, at s, without x_t
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from diffax import checks
from diffax.losses.adversarial import discriminator_loss, generator_loss, lazily, r1_penalty
from diffax.processes import FromTable, ancestral_pair, bridge_sample, perturb, tables
from diffax.samplers import Sampler, direct, posterior
from diffax.training import TrainState, apply_gradients, ema
from diffax.training.ema import EmaSchedule
from diffax.training.step import Batch, Metrics, TrainStep
from diffax.types import Cond, Params

# G(params, x_t, t, cond) -> x0 and D(params, x_s, t, x_t) -> logits; t in (0, 1]
Generate = Callable[[Params, Array, Array, Cond | None], Array]
Discriminate = Callable[[Params, Array, Array, Array], Array]
OBJECTIVES = ("gan", "l2", "augmented")


class Method(NamedTuple):
    """What one configuration fixes.

    * ``steps``: T. ``latent``: dimensions of z, 0 for none. ``objective``: "gan", "l2" or "augmented".
    * ``gamma``: weight of R1; ``lazy``: it is computed every so many steps, and ``rescale`` multiplies it by
      their number (the paper's code does not).
    * ``direct``: the generator's output is x_s, not x0. ``field``: of a batch that holds x0.
    """

    generate: Generate
    discriminate: Discriminate
    steps: int
    latent: int
    gamma: float
    lazy: int
    rescale: bool
    objective: str = "gan"
    direct: bool = False
    field: str = "x"

    @property
    def process(self) -> FromTable:
        """The chain."""
        return chain(self.steps)

    @property
    def sampler(self) -> Sampler:
        """How a step of the chain is drawn."""
        return direct(self.latent) if self.direct else posterior(self.latent)

    @property
    def grid(self) -> Float[Array, "points"]:
        """The times that sampling visits."""
        return grid(1 if self.objective == "augmented" else self.steps)


class Draw(NamedTuple):
    """Training examples of the chain: times s < t, the real pair, a latent, noise for the model's draws."""

    s: Float[Array, "b"]
    t: Float[Array, "b"]
    x_s: Float[Array, "b ..."]
    x_t: Float[Array, "b ..."]
    cond: Cond | None
    noise: Float[Array, "b ..."]
    start: Float[Array, "b ..."]


def chain(steps: int) -> FromTable:
    """The forward process: T large steps of the VP SDE."""
    return FromTable(tables.vp(steps))


def grid(steps: int) -> Float[Array, "points"]:
    """Times 1, (T - 1) / T, ..., 0."""
    return jnp.arange(steps, -1, -1) / steps


def draw(method: Method, key: Key[Array, ""], x0: Float[Array, "b ..."]) -> Draw:
    """A uniform step of the chain for each sample, with all that is random in it."""
    keys = jax.random.split(key, 6)
    index = jax.random.randint(keys[0], x0.shape[:1], 0, method.steps)
    s, t = index / method.steps, (index + 1) / method.steps
    first, second, noise, start = (jax.random.normal(k, x0.shape, x0.dtype) for k in keys[1:5])
    x_s, x_t = ancestral_pair(method.process, x0, (first, second), s, t)
    if method.objective == "augmented":
        x_t = jnp.zeros_like(x_t)  # its discriminator judges x_s alone
    cond = {"z": jax.random.normal(keys[5], (x0.shape[0], method.latent))} if method.latent else None
    return Draw(s, t, x_s, x_t, cond, noise, start)


def predecessor(method: Method, params: Params, drawn: Draw) -> Float[Array, "b ..."]:
    """A draw of x_s from the model: ``q(x_s | x_t, G(x_t, z, t))``, or what an ablation has in its place."""
    if method.objective == "augmented":
        x0 = method.generate(params, drawn.start, jnp.ones_like(drawn.t), drawn.cond)
        return perturb(method.process, x0, drawn.noise, drawn.s)
    out = method.generate(params, drawn.x_t, drawn.t, drawn.cond)
    if method.direct:
        return out
    return bridge_sample(method.process, out, drawn.x_t, drawn.noise, drawn.s, drawn.t)


def discriminator_objective(
    method: Method, params: Params, generator: Params, x0: Array, key: Key[Array, ""], step: Int[Array, ""]
) -> tuple[Float[Array, ""], Metrics]:
    """The discriminator's loss with R1 on the real x_s alone, given x_t and t."""
    drawn = draw(method, key, x0)
    fake = jax.lax.stop_gradient(predecessor(method, generator, drawn))
    logits = [method.discriminate(params, x, drawn.t, drawn.x_t) for x in (drawn.x_s, fake)]
    loss = discriminator_loss(*logits)

    def penalty() -> Float[Array, ""]:
        return r1_penalty(lambda x: method.discriminate(params, x, drawn.t, drawn.x_t), drawn.x_s)

    r1, _ = lazily(penalty, step, method.lazy, method.rescale)
    metrics = {"d_loss": loss, "r1": r1, "d_real": jnp.mean(logits[0]), "d_fake": jnp.mean(logits[1])}
    return loss + 0.5 * method.gamma * r1, metrics


def generator_objective(
    method: Method, params: Params, discriminator: Params, x0: Array, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Metrics]:
    """The generator's non-saturating loss, or for the baseline the squared error of x0."""
    drawn = draw(method, key, x0)
    if method.objective == "l2":
        loss = jnp.mean((method.generate(params, drawn.x_t, drawn.t, drawn.cond) - x0) ** 2)
    else:
        fake = predecessor(method, params, drawn)
        loss = generator_loss(method.discriminate(discriminator, fake, drawn.t, drawn.x_t))
    return loss, {"g_loss": loss}


def make_train_step(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    averages: Mapping[str, EmaSchedule],
) -> TrainStep:
    """One step of D, then one of G with a fresh draw from the same real batch; averages of G alone."""
    checks.require_one_of("objective", method.objective, OBJECTIVES)
    plain = method.objective == "gan" or not method.direct
    checks.require(plain, "objective", method.objective, "'gan' where the prediction is 'x_s'")

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        d_key, g_key = jax.random.split(state.step_key())
        g, d, metrics = state.nets["generator"], state.nets["discriminator"], {}
        x0 = batch[method.field]
        if method.objective != "l2":
            (_, metrics), grads = jax.value_and_grad(
                lambda p: discriminator_objective(method, p, g.params, x0, d_key, state.step),
                has_aux=True,
            )(d.params)
            d = apply_gradients(d, grads, optimizers["discriminator"])
        (loss, found), grads = jax.value_and_grad(
            lambda p: generator_objective(method, p, d.params, x0, g_key), has_aux=True
        )(g.params)
        g = apply_gradients(g, grads, optimizers["generator"])
        g = g.replace(ema=ema.update(g.ema, g.params, averages, state.step))
        metrics = metrics | found | {"loss": loss + metrics.get("d_loss", 0.0)}
        return state.replace(step=state.step + 1, nets={"generator": g, "discriminator": d}), metrics

    return train_step
