"""Figures and pictures: modes, quality, and whether the denoiser has the spread of the exact posterior."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import sample
from diffax.data import Mixture
from diffax.data.points import sample_mixture
from diffax.denoisers import mixture_denoiser, mixture_responsibilities
from diffax.evaluation import Figure, mixture_modes
from diffax.io import in_batches, samples
from diffax.processes import perturb
from diffax.samplers import posterior
from diffax.types import Cond, DenoiseFn, Keys, Params
from experiments.ddgan import method, pictures
from experiments.progress import say


class Measured(NamedTuple):
    """Marginal figures of samples of the mixture."""

    modes: int
    high_quality: float
    kl: float
    tv: float


def measure(x: Float[np.ndarray, "n 2"], mixture: Mixture) -> Measured:
    """Modes with a tenth of their share, share within 3 standard deviations, KL and total variation.

    ``kl``: over modes, of the samples within 3 deviations to the uniform law; ``tv``: of all samples by their
    nearest centre. Real data has a tv of about 0.02 at n = 10,000 and a high-quality share of 0.989.
    """
    covered = mixture_modes(
        x, mixture.weights, mixture.means, mixture.covs, min_count=max(1, len(x) // 10 // len(mixture.means))
    )
    shares = histogram(x, mixture)
    tv = 0.5 * np.abs(shares - np.asarray(mixture.weights)).sum()
    return Measured(covered.modes, covered.high_quality, covered.kl, float(tv))


def histogram(x: Float[np.ndarray, "n 2"], mixture: Mixture) -> Float[np.ndarray, "k"]:
    """Shares of samples by their nearest centre."""
    distance = np.linalg.norm(x[:, None] - np.asarray(mixture.means), axis=-1)
    return np.bincount(distance.argmin(axis=1), minlength=len(mixture.means)) / len(x)


def denoiser(made: method.Method, params: Params) -> DenoiseFn:
    """The generator as a denoiser that draws: it reads its latent from ``cond["z"]``."""

    def denoise(x: Array, t: Array, cond: Cond | None) -> Array:
        return made.generate(params, x, t, cond)

    return denoise


@partial(jax.jit, static_argnums=0)
def _sample(made: method.Method, params: Params, keys: Keys) -> Float[Array, "b points 2"]:
    out = sample(
        keys, denoiser(made, params), made.process, posterior(made.latent), method.grid(made.steps),
        shape=(2,), return_path=True,
    )  # fmt: skip
    return out.path


def generate(made: method.Method, params: Params, key: Key[Array, ""], n: int, batch_size: int) -> np.ndarray:
    """Paths of n samples from noise to data, Float["n points 2"]."""
    call: Callable[..., Any] = lambda params, keys, _: _sample(made, params, keys)  # noqa: E731
    return np.concatenate(list(in_batches(call, params, key, n, batch_size)))


def oracle_mean(made: method.Method, mixture: Mixture, key: Key[Array, ""], n: int) -> np.ndarray:
    """Samples with the exact posterior mean as denoiser: the best that a Gaussian denoiser can do."""
    denoise = mixture_denoiser(made.process, *mixture)
    run = jax.jit(
        lambda keys: sample(keys, denoise, made.process, posterior(), method.grid(made.steps), shape=(2,)).x
    )
    return np.asarray(run(jax.random.split(key, n)))


def spread(
    made: method.Method, params: Params, mixture: Mixture, index: int, key: Key[Array, ""], n: int
) -> dict[str, float]:
    """The generator's draws of x0 given x_t, t = (index + 1) / T, against the exact posterior over modes.

    ``tv``: mean total variation over n values of x_t, n draws each; ``modes`` and ``exact_modes``: the
    exponential of the mean entropy, an effective number of modes.
    """
    x_key, noise_key, z_key = jax.random.split(key, 3)
    t = (index + 1) / made.steps
    x0 = sample_mixture(mixture, x_key, n)
    x_t = perturb(made.process, x0, jax.random.normal(noise_key, x0.shape), jnp.full(n, t))
    exact = np.asarray(mixture_responsibilities(made.process, *mixture)(x_t, jnp.full(n, t)))
    repeated = jnp.repeat(x_t, n, axis=0)
    cond = {"z": jax.random.normal(z_key, (n * n, made.latent))} if made.latent else None
    drawn = jax.jit(made.generate)(params, repeated, jnp.full(n * n, t), cond)
    found = np.stack([histogram(rows, mixture) for rows in np.asarray(drawn).reshape(n, n, 2)])
    return {
        "tv": float(0.5 * np.abs(found - exact).sum(axis=1).mean()),
        "modes": _effective(found),
        "exact_modes": _effective(exact),
    }


def _effective(shares: Float[np.ndarray, "n k"]) -> float:
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(np.exp(-(shares * logs).sum(axis=1).mean()))


def evaluate(
    config: ConfigDict, made: method.Method, mixture: Mixture, params: Params, workdir: Path
) -> dict[str, Any]:
    """Figures of the generator's samples, of the exact posterior mean's, and of real data."""
    n, key = config.eval.n, jax.random.key(config.seed + 2)
    generate(made, params, key, n, config.eval.batch_size)  # compilation is outside the clock
    begun = time.perf_counter()
    paths = generate(made, params, key, n, config.eval.batch_size)
    seconds = time.perf_counter() - begun
    found = {
        "": measure(paths[:, -1], mixture),
        "mean_oracle/": measure(oracle_mean(made, mixture, key, n), mixture),
        "real/": measure(np.asarray(sample_mixture(mixture, key, n)), mixture),
    }
    rows = [{"name": name or "ddgan/", **value._asdict()} for name, value in found.items()]
    figures = [
        Figure(f"{name}{field}", float(value), n_fake=n, seed=config.seed)
        for name, values in found.items()
        for field, value in values._asdict().items()
    ]
    about = {"nfe": made.steps, "seconds_per_100": 100 * seconds / n, "n": n}
    figures += [Figure(name, float(value), n_fake=n, seed=config.seed) for name, value in about.items()]
    for index in range(min(2, made.steps)):
        values = spread(made, params, mixture, index, key, config.eval.spread_n)
        figures += [
            Figure(f"spread_{index}/{name}", value, n_fake=config.eval.spread_n, seed=config.seed)
            for name, value in values.items()
        ]
        rows.append({"name": f"spread_{index}", **values})
    samples.write_npz(workdir / "samples.npz", x=paths[:, -1])
    pictures.draw(workdir, paths, mixture, made)
    for row in rows:
        say(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return {"figures": figures, "rows": rows}


def draw(config: ConfigDict, made: method.Method, mixture: Mixture, params: Params, workdir: Path) -> None:
    """``config.sample.n`` samples as ``samples.npz``, and the pictures."""
    key, settings = jax.random.key(config.seed + 1), config.sample
    paths = generate(made, params, key, settings.n, settings.batch_size)
    samples.write_npz(workdir / "samples.npz", x=paths[:, -1])
    pictures.draw(workdir, paths, mixture, made)
