r"""f-distill: a generator of one or few steps whose law matches a teacher's in an f-divergence.

Four networks: the frozen teacher; the student, which starts as its copy and whose estimate of x0 at a high
noise level *is* the sample; the fake score, a denoiser of the student's samples; the discriminator. One
training step is several updates of the critics and one of the student, x = student(noise):

    critics     denoising loss of the fake score on x; D tells noised real data from noised x
    student     g = h(r) w (x0_fake - x0_teacher) at x_t,  r = exp(D(x_t)), and lambda softplus(-D(x_t))

Xu, Nie, Vahdat 2025 (arXiv:2502.15681), algorithm 1. With h = 1 it is DMD2 (Yin et al. 2024,
arXiv:2405.14867).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from diffax import checks
from diffax.losses import denoising_loss
from diffax.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from diffax.losses.distribution_matching import (
    approximate_r1,
    density_ratio,
    divergence_weight,
    matching_loss,
)
from diffax.losses.divergences import Divergence
from diffax.losses.weighting import Weighting
from diffax.models.features import Features
from diffax.processes import GaussianProcess, noise_to_signal, per_sample, perturb
from diffax.processes.times import TimeSampler
from diffax.training import NetState, TrainState, apply_gradients, ema, split_batch
from diffax.training.ema import EmaSchedule
from diffax.training.step import Batch, Metrics, TrainStep
from diffax.types import Cond, DenoiseFn, Params

# (params, x, t, cond) -> the estimate of x0, and the network's activations by name
Look = Callable[[Params, Array, Array, Cond | None], tuple[Array, Features]]
# (params, x, t, activations) -> logits Float["b heads"]
Discriminate = Callable[[Params, Array, Array, Features], Array]
# (x, the teacher's x0, noise level sigma / alpha) -> Float["b"], the factor w beside h
BaseWeight = Callable[[Array, Array, Array], Array]
FEATURES = ("teacher", "fake", "input")
PENALTIES = ("exact", "approximate")


class Ratio(NamedTuple):
    """How r = p / q is read off the logits: clamps, bins of noise levels, decay of the bins' means."""

    bound: float
    low: float
    high: float
    edges: Float[Array, "edges"]
    decay: float


class Adversary(NamedTuple):
    """The discriminator's part.

    * ``weight``: lambda, of the student's adversarial loss; ``critic_weight``: of the discriminator's.
    * ``features``: whose activations it sees: "teacher" (frozen), "fake" (the fake score is then trained by
      the discriminator's loss as well, as in DMD2), or "input" (x_t alone).
    * ``penalty``: "exact" or "approximate" R1 on real data, weighted by ``gamma / 2``; 0 for none.
    """

    weight: float
    critic_weight: float
    features: str
    penalty: str
    gamma: float


def condition(batch: Batch) -> Cond | None:
    """Labels as networks take them, where the data has some."""
    if "label" not in batch:
        return None
    return {"label": batch["label"], "unconditional": jnp.zeros(batch["label"].shape, bool)}


class Method(NamedTuple):
    """What one configuration fixes.

    ``teacher`` is guided already; ``score`` is the network of student and fake score alike. ``times`` and
    ``weighting`` are those of x_t in both losses. ``grid``: times that the student visits, noise first, and
    zero. ``field``: of a batch that holds x0; ``condition``: what networks are told of a batch.
    """

    process: GaussianProcess
    teacher: Look
    score: Look
    discriminate: Discriminate
    divergence: Divergence
    base_weight: BaseWeight
    times: TimeSampler
    weighting: Weighting
    grid: Float[Array, "points"]
    ratio: Ratio
    adversary: Adversary
    field: str = "image"
    condition: Callable[[Batch], Cond | None] = condition


class Critics(NamedTuple):
    """Parameters of the fake score and the discriminator."""

    fake: Params
    discriminator: Params


def student(method: Method, params: Params) -> DenoiseFn:
    """The student as a denoiser: its estimate at the first time of the grid is a sample."""
    return lambda x, t, cond: method.score(params, x, t, cond)[0]


def generate(
    method: Method, params: Params, key: Key[Array, ""], real: Float[Array, "b ..."], cond: Cond | None
) -> Float[Array, "b ..."]:
    """Samples to train with: from pure noise, or for later steps of the grid from noised real data."""
    step_key, noise_key = jax.random.split(key)
    index = jax.random.randint(step_key, real.shape[:1], 0, len(method.grid) - 1)
    t = jnp.asarray(method.grid, real.dtype)[index]
    known = per_sample((index > 0).astype(real.dtype), real) * real  # the first step knows nothing
    x = perturb(method.process, known, jax.random.normal(noise_key, real.shape, real.dtype), t)
    return student(method, params)(x, t, cond)


def noised(method: Method, key: Key[Array, ""], x: Float[Array, "b ..."]) -> tuple[Array, Float[Array, "b"]]:
    """``x_t`` and t, one draw of both for each sample."""
    time_key, noise_key = jax.random.split(key)
    t = method.times(time_key, method.process, x.shape[0]).astype(x.dtype)
    return perturb(method.process, x, jax.random.normal(noise_key, x.shape, x.dtype), t), t


def logits(
    method: Method, critics: Critics, teacher: Params, x: Array, t: Array, cond: Cond | None
) -> Float[Array, "b heads"]:
    """The discriminator's view of noised samples."""
    features: Features = {}
    if method.adversary.features == "teacher":
        features = method.teacher(teacher, x, t, cond)[1]
    elif method.adversary.features == "fake":
        features = method.score(critics.fake, x, t, cond)[1]
    return method.discriminate(critics.discriminator, x, t, features)


def critics_objective(
    method: Method,
    critics: Critics,
    teacher: Params,
    x: Float[Array, "b ..."],
    real: Float[Array, "b ..."],
    cond: Cond | None,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """Denoising of the student's samples x, and real against drawn; each part sees its own noise."""
    keys, about = jax.random.split(key, 4), method.adversary
    fake = denoising_loss(
        keys[0], student(method, critics.fake), method.process, x,
        cond=cond, times=method.times, weighting=method.weighting,
    ).loss  # fmt: skip
    (real_t, t), (drawn_t, s) = noised(method, keys[1], real), noised(method, keys[2], x)

    def of_real(y: Array) -> Float[Array, "b"]:
        return jnp.mean(logits(method, critics, teacher, y, t, cond), axis=1)

    on_real = logits(method, critics, teacher, real_t, t, cond)
    on_drawn = logits(method, critics, teacher, drawn_t, s, cond)
    loss = discriminator_loss(on_real.reshape(-1), on_drawn.reshape(-1))
    metrics = {"fake_loss": fake, "d_loss": loss, "d_real": jnp.mean(on_real), "d_drawn": jnp.mean(on_drawn)}
    if about.gamma:
        exact = about.penalty == "exact"
        r1 = r1_penalty(of_real, real_t) if exact else approximate_r1(keys[3], of_real, real_t)
        loss, metrics = loss + 0.5 * about.gamma * r1, metrics | {"r1": r1}
    return fake + about.critic_weight * loss, metrics


def student_objective(
    method: Method,
    params: Params,
    critics: Critics,
    teacher: Params,
    means: Float[Array, "bins"],
    real: Float[Array, "b ..."],
    cond: Cond | None,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], tuple[Metrics, Float[Array, "bins"]]]:
    """The matching loss with h(r) in its weight, and the adversarial loss; the means of r per bin."""
    draw_key, noise_key = jax.random.split(key)
    x = generate(method, params, draw_key, real, cond)
    x_t, t = noised(method, noise_key, x)
    teacher_x0, features = method.teacher(teacher, x_t, t, cond)
    own_x0, own_features = method.score(critics.fake, x_t, t, cond)
    seen = own_features if method.adversary.features == "fake" else features
    verdict = method.discriminate(critics.discriminator, x_t, t, seen)
    level, about = noise_to_signal(method.process, t), method.ratio
    ratio = density_ratio(verdict, bound=about.bound, low=about.low, high=about.high)
    found = divergence_weight(method.divergence, ratio, level, about.edges, means, decay=about.decay)
    weight = found.weight * method.base_weight(x, teacher_x0, level)
    matching = matching_loss(x, teacher_x0, own_x0, weight)
    adversarial = generator_loss(verdict.reshape(-1))
    metrics = {
        "matching_loss": matching,
        "g_loss": adversarial,
        "ratio": jnp.mean(ratio),
        "ratio_std": jnp.std(ratio),
        "h_std": jnp.std(found.weight),
        "h_max": jnp.max(found.weight),
        "score_difference": jnp.sqrt(jnp.mean(jnp.square(own_x0 - teacher_x0))),
    }
    return matching + method.adversary.weight * adversarial, (metrics, found.means)


def make_train_step(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    averages: Mapping[str, EmaSchedule],
    critic_steps: int,
) -> TrainStep:
    """``critic_steps`` updates of both critics, each on its own part of the batch, then one of the student.

    ``optimizers`` for "student", "fake" and "discriminator"; averages are of the student. The student sees
    the first part of the batch, with fresh noise.
    """
    check(method, critic_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        critic_key, student_key = jax.random.split(state.step_key())
        parts = split_batch(batch, critic_steps, "critic_steps")
        nets, found = train_critics(method, optimizers, state, parts, critic_key)
        state = state.replace(nets={**state.nets, **nets})
        first = {name: leaf[0] for name, leaf in parts.items()}
        nets, metrics = train_student(method, optimizers["student"], state, first, student_key)
        student = nets["student"]
        averaged = ema.update(student.ema, student.params, averages, state.step)
        nets = {**state.nets, **nets, "student": student.replace(ema=averaged)}
        total = metrics.pop("loss") + found["fake_loss"] + found["d_loss"]
        finite = jnp.isfinite(total + metrics["grad_norm"]).astype(jnp.float32)
        return state.replace(step=state.step + 1, nets=nets), {
            **metrics, **found, "loss": total, "finite": finite,
        }  # fmt: skip

    return train_step


def train_critics(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    state: TrainState,
    parts: Batch,
    key: Key[Array, ""],
) -> tuple[dict[str, NetState], Metrics]:
    """Both critics after a step on each part of a batch, in turn, and the mean metrics."""
    generator, teacher = state.nets["student"].params, state.frozen["teacher"]
    count = len(next(iter(parts.values())))

    def one(nets: tuple[NetState, NetState], inputs: Any) -> tuple[Any, Metrics]:
        index, part = inputs
        own = jax.random.fold_in(key, index)
        return update_critics(method, optimizers, nets, generator, teacher, part, own)

    nets = (state.nets["fake"], state.nets["discriminator"])
    # XLA's convolutions are many times slower inside of a loop, on a CPU
    unroll = count if jax.default_backend() == "cpu" else 1
    (fake, discriminator), found = jax.lax.scan(one, nets, (jnp.arange(count), parts), unroll=unroll)
    means = {name: jnp.mean(value) for name, value in found.items()}
    return {"fake": fake, "discriminator": discriminator}, means


def train_student(
    method: Method,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[dict[str, NetState], Metrics]:
    """The student after a step against its critics; the discriminator with the new means of r."""
    student, fake, discriminator = (state.nets[name] for name in ("student", "fake", "discriminator"))

    def objective(params: Params) -> tuple[Array, tuple[Metrics, Array]]:
        return student_objective(
            method, params, Critics(fake.params, discriminator.params), state.frozen["teacher"],
            discriminator.mutable["ratio_means"], batch[method.field], method.condition(batch), key,
        )  # fmt: skip

    (loss, (metrics, means)), grads = jax.value_and_grad(objective, has_aux=True)(student.params)
    nets = {
        "student": apply_gradients(student, grads, optimizer),
        "discriminator": discriminator.replace(mutable={"ratio_means": means}),
    }
    return nets, {**metrics, "loss": loss, "grad_norm": optax.global_norm(grads)}


def update_critics(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    nets: tuple[NetState, NetState],
    generator: Params,
    teacher: Params,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[tuple[NetState, NetState], Metrics]:
    """The fake score and the discriminator after one step on fresh samples of the student."""
    draw_key, loss_key = jax.random.split(key)
    real, cond = batch[method.field], method.condition(batch)
    x = jax.lax.stop_gradient(generate(method, generator, draw_key, real, cond))
    fake, discriminator = nets
    (_, metrics), grads = jax.value_and_grad(
        lambda critics: critics_objective(method, critics, teacher, x, real, cond, loss_key), has_aux=True
    )(Critics(fake.params, discriminator.params))
    fake = apply_gradients(fake, grads.fake, optimizers["fake"])
    return (fake, apply_gradients(discriminator, grads.discriminator, optimizers["discriminator"])), metrics


def check(method: Method, critic_steps: int) -> None:
    """Raise ``ValueError`` for an option that is not allowed."""
    about = method.adversary
    checks.require(critic_steps >= 1, "config.critic_steps", critic_steps, "1 or more")
    checks.require_one_of("config.gan.features", about.features, FEATURES)
    checks.require_one_of("config.gan.penalty", about.penalty, PENALTIES)
    for name in ("weight", "critic_weight", "gamma"):
        value = getattr(about, name)
        checks.require(value >= 0, f"config.gan.{name}", value, "a number >= 0")
    checks.require(0 <= method.ratio.decay < 1, "config.ratio.decay", method.ratio.decay, "[0, 1)")
