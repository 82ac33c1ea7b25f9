"""Eight Gaussians on a ring: the teacher is exact, and every mode can be counted."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import bind, checks
from diffax.data import Mixture, MixtureStream
from diffax.data import ring as gaussians
from diffax.data.points import sample_mixture
from diffax.denoisers import mixture_denoiser
from diffax.evaluation import frechet_distance, prdc
from diffax.io import in_batches, samples
from diffax.losses import denoising_loss
from diffax.losses.weighting import edm
from diffax.models import MLP
from diffax.processes import EDM
from diffax.samplers import Sampler
from diffax.training import OptimizerConfig, TrainState, make_optimizer
from diffax.types import ApplyFn, DenoiseFn, Params
from experiments import build
from experiments.f_distill import particles, pictures
from experiments.f_distill.method import Method
from experiments.f_distill.networks import make_look, make_times
from experiments.f_distill.sampling import Generate, make_generate, make_teacher_generate
from experiments.f_distill.target import Target, against
from experiments.figures import as_figures, as_rows, fastest
from experiments.medical_survey.method import make_solver

Loss = Callable[[Params, Array, Array], Array]  # (params, x0, key)
_SHAPE = (2,)
_COMPARED = 2000  # samples whose neighbours are looked for


def make_target(config: ConfigDict) -> Target:
    """The ring, its exact denoiser, and a perceptron that learned to denoise it."""
    checks.require_one_of("config.eval.teacher", config.eval.teacher, config.solvers)
    mixture = gaussians()
    process = EDM(t_min=config.noise.low, t_max=config.noise.high)
    sigma_data = scale_of(mixture)
    model = build.make_module(MLP, "model", config.model)
    exact = mixture_denoiser(process, *mixture)
    times, weighting = make_times(process, config.noise.low, config.noise.high), edm(sigma_data)

    def make_denoiser(apply_fn: ApplyFn, params: Params) -> DenoiseFn:
        return bind(
            apply_fn, params, process=process, output="F", sigma_data=sigma_data, time_input="c_noise"
        )

    def loss_fn(params: Params, x0: Array, key: Key[Array, ""]) -> Array:
        denoise = make_denoiser(build.make_apply(model), params)
        return denoising_loss(key, denoise, process, x0, times=times, weighting=weighting).loss

    return Target(
        shape=_SHAPE,
        field="x",
        sigma_data=sigma_data,
        process=process,
        labelled=False,
        teacher=lambda params, x, t, cond: (exact(x, t, cond), {}),
        score=make_look(model, make_denoiser),
        start=lambda key: pretrain(config, model, mixture, loss_fn, key),
        begin=None,
        data=lambda index, count: make_stream(config, mixture, index, count),
        evaluate=lambda method, state, workdir: evaluate(config, method, mixture, state, workdir),
        draw=lambda method, state, workdir: draw(config, method, mixture, state, workdir),
    )


def scale_of(mixture: Mixture) -> float:
    """Root mean square coordinate of a mixture's samples."""
    power = jnp.sum(mixture.means**2, axis=1) + jnp.trace(mixture.covs, axis1=1, axis2=2)
    return math.sqrt(float(jnp.sum(mixture.weights * power)) / mixture.means.shape[1])


def make_stream(config: ConfigDict, mixture: Mixture, index: int, count: int) -> MixtureStream:
    """Fresh points: a batch for every update of the critics."""
    rows = build.shard_rows(config, count) * config.critic_steps
    return MixtureStream(mixture, rows, config.seed, shard_index=index, shard_count=count)


def pretrain(
    config: ConfigDict, model: nn.Module, mixture: Mixture, loss_fn: Loss, key: Key[Array, ""]
) -> Params:
    """A denoiser of the mixture, learned in one compiled loop."""
    settings, (init_key, run_key) = config.start, jax.random.split(key)
    rule = OptimizerConfig(settings.learning_rate, schedule="cosine", clip_norm=0.0)
    optimizer = make_optimizer(rule, settings.steps)

    def step(carry: tuple[Params, Any], index: Array) -> tuple[Any, None]:
        params, opt_state = carry
        data_key, noise_key = jax.random.split(jax.random.fold_in(run_key, index))
        x0 = sample_mixture(mixture, data_key, config.train.batch_size)
        grads = jax.grad(loss_fn)(params, x0, noise_key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state), None

    params = model.init(init_key, jnp.zeros((1, *_SHAPE)), jnp.zeros(1))["params"]
    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(settings.steps))[0][0]


def evaluate(
    config: ConfigDict, method: Method, mixture: Mixture, state: TrainState, workdir: Path
) -> dict[str, Any]:
    """Figures of the student, of its start, of the exact teacher and of the learned network in many steps."""
    n, size, key = config.eval.n, config.eval.batch_size, jax.random.key(config.seed + 2)
    real = np.asarray(sample_mixture(mixture, key, n))
    student, one = state.nets["student"].averaged(config.sample.ema), make_generate(method, _SHAPE, False)
    start, nfe = state.frozen["teacher"], len(method.grid) - 1
    sets: dict[str, tuple[Generate, Params, int]] = {"": (one, student, nfe), "init": (one, start, nfe)}
    sets |= solvers(config, method, mixture, start)
    clouds = {name: draw_all(sets[name], key, n, size) for name in sets}
    clouds["real"] = np.asarray(sample_mixture(mixture, jax.random.fold_in(key, 1), n))
    found = {name: measure(cloud, real, mixture) for name, cloud in clouds.items()}
    for name, (generate, params, calls) in sets.items():
        arguments = samples.arguments(params, key, np.arange(size), 0, size)
        found[name] |= {"nfe": calls, "seconds_per_1000": 1000 / size * fastest(lambda: generate(*arguments))}  # noqa: B023
    found[""] |= against(found, config.eval.teacher, "network")
    samples.write_npz(workdir / "samples.npz", x=clouds[""])
    pictures.draw_points(workdir, {k: clouds[k] for k in ("init", "", config.eval.teacher, "real")})
    pictures.draw_weights(workdir / "weights.png", config.divergence)
    pictures.draw_pareto(workdir / "pareto.png", found, config.eval.teacher, "frechet")
    figures = as_figures(found, n_fake=n, n_real=n, seed=config.seed)
    rows = as_rows(found, config.divergence)
    return {"figures": figures, "rows": rows, "notes": {"divergence": config.divergence}}


def solvers(
    config: ConfigDict, method: Method, mixture: Mixture, start: Params
) -> dict[str, tuple[Generate, Params, int]]:
    """The exact teacher with each solver, and the learned network with the one that is compared with."""
    named = {name: make_solver(value) for name, value in config.solvers.items()}
    exact = mixture_denoiser(method.process, *mixture)
    found: dict[str, tuple[Generate, Params, int]] = {}
    for name, solver in named.items():
        grid = build.make_grid(config.solvers[name].grid, method.process, config.solvers[name].steps)
        calls = int(solver.sampler.nfe(method.process, grid, ()))
        found[name] = (_many(lambda _: exact, method, solver.sampler, grid), start, calls)
        if name == config.eval.teacher:
            own = _many(lambda p: lambda x, t, c: method.score(p, x, t, c)[0], method, solver.sampler, grid)
            found["network"] = (own, start, calls)
    return found


def _many(make_denoiser: Any, method: Method, sampler: Sampler, grid: Array) -> Generate:
    return make_teacher_generate(make_denoiser, method.process, sampler, grid, _SHAPE, False)


def draw_all(which: tuple[Generate, Params, int], key: Key[Array, ""], n: int, size: int) -> np.ndarray:
    """n samples in batches."""
    generate, params, _ = which
    return np.concatenate(list(in_batches(generate, params, key, np.arange(n), size)))


def measure(x: np.ndarray, real: np.ndarray, mixture: Mixture) -> dict[str, float]:
    """Modes and their balance; distances and neighbours in the plane itself."""
    spread, near = particles.measure(x, mixture), prdc(real[:_COMPARED], x[:_COMPARED])
    return {
        "modes": spread.modes,
        "high_quality": spread.high_quality,
        "tv": spread.total_variation,
        "frechet": frechet_distance(real, x),
        "precision": near.precision,
        "recall": near.recall,
        "coverage": near.coverage,
    }


def draw(config: ConfigDict, method: Method, mixture: Mixture, state: TrainState, workdir: Path) -> None:
    """``config.sample.n`` samples as ``samples.npz``, and a picture of them."""
    settings, key = config.sample, jax.random.key(config.seed + 1)
    params = state.nets["student"].averaged(settings.ema)
    x = draw_all((make_generate(method, _SHAPE, False), params, 1), key, settings.n, settings.batch_size)
    samples.write_npz(workdir / "samples.npz", x=x)
    real = np.asarray(sample_mixture(mixture, key, len(x)))
    pictures.draw_points(workdir, {"": x, "real": real})
