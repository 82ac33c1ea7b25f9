"""Points in the plane: modes, quality, and whether the denoiser has the spread of the exact posterior."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import sample
from diffax.data import Mixture, MixtureStream
from diffax.data import grid as gaussians
from diffax.data.points import sample_mixture
from diffax.denoisers import mixture_denoiser, mixture_responsibilities
from diffax.evaluation import mixture_modes
from diffax.io import samples
from diffax.processes import perturb
from diffax.samplers import posterior
from diffax.types import Params
from experiments import build
from experiments.ddgan import pictures
from experiments.ddgan.method import Method, grid
from experiments.ddgan.sampling import costs, generate
from experiments.ddgan.target import Target
from experiments.figures import as_figures, as_rows

_SHAPE = (2,)


def make_target(config: ConfigDict) -> Target:
    """The grid of Gaussians of ``config.data``."""
    mixture = make_mixture(config)
    return Target(
        shape=_SHAPE,
        field="x",
        data=lambda index, count: MixtureStream(
            mixture, build.shard_rows(config, count), config.seed, shard_index=index, shard_count=count
        ),
        evaluate=lambda made, params, workdir: evaluate(config, made, mixture, params, workdir),
        draw=lambda made, params, step, workdir: draw(config, made, mixture, params, workdir),
    )


def make_mixture(config: ConfigDict) -> Mixture:
    """The grid of Gaussians, divided by the root mean square coordinate of its centres."""
    mixture = gaussians(config.data.side, 2.0, config.data.std)
    scale = jnp.sqrt(jnp.mean(mixture.means**2))
    return Mixture(mixture.weights, mixture.means / scale, mixture.covs / scale**2)


def evaluate(
    config: ConfigDict, made: Method, mixture: Mixture, params: Params, workdir: Path
) -> dict[str, Any]:
    """Figures of the generator's samples, of the exact posterior mean's, and of real data."""
    n, size, key = config.eval.n, config.eval.batch_size, jax.random.key(config.seed + 2)
    generate(made, _SHAPE, params, key, size, size, return_path=True)  # compilation is outside the clock
    begun = time.perf_counter()
    paths = generate(made, _SHAPE, params, key, n, size, return_path=True)
    seconds = time.perf_counter() - begun
    means = oracle_mean(made, mixture, key, n)
    about = {"nfe": paths.shape[1] - 1, "seconds_per_100": 100 * seconds / n, "n": n}
    found = {
        "": measure(paths[:, -1], mixture) | about,
        "mean_oracle": measure(means, mixture),
        "real": measure(np.asarray(sample_mixture(mixture, key, n)), mixture),
    }
    figures = as_figures(found, n_fake=n, seed=config.seed)
    m = config.eval.spread_n
    indices = range(min(2, made.steps)) if made.objective != "augmented" and not made.direct else ()
    spreads = {f"spread_{i}": spread(made, params, mixture, i, key, m) for i in indices}
    figures += as_figures(spreads, n_fake=m, seed=config.seed)
    timed = costs(made, _SHAPE, params, key, config.eval.timing_n)
    figures += as_figures(timed, n_fake=config.eval.timing_n, seed=config.seed)
    samples.write_npz(workdir / "samples.npz", x=paths[:, -1], mean_oracle=means)
    pictures.draw_points(workdir, paths, mixture)
    return {"figures": figures, "rows": as_rows({**found, **spreads, **timed}, "ddgan")}


def draw(config: ConfigDict, made: Method, mixture: Mixture, params: Params, workdir: Path) -> None:
    """``config.sample.n`` samples as ``samples.npz``, and the picture of their paths."""
    key, settings = jax.random.key(config.seed + 1), config.sample
    paths = generate(made, _SHAPE, params, key, settings.n, settings.batch_size, return_path=True)
    samples.write_npz(workdir / "samples.npz", x=paths[:, -1])
    pictures.draw_points(workdir, paths, mixture)


def measure(x: Float[np.ndarray, "n 2"], mixture: Mixture) -> dict[str, float]:
    """Modes with a tenth of their share, share within 3 standard deviations, KL and total variation.

    ``kl``: over modes, of the samples within 3 deviations to the uniform law; ``tv``: of all samples by their
    nearest centre. Real data has a tv of about 0.02 at n = 10,000 and a high-quality share of 0.989.
    """
    least = max(1, len(x) // 10 // len(mixture.means))
    covered = mixture_modes(x, mixture.weights, mixture.means, mixture.covs, min_count=least)
    tv = 0.5 * np.abs(histogram(x, mixture) - np.asarray(mixture.weights)).sum()
    names = {"modes": covered.modes, "high_quality": covered.high_quality, "kl": covered.kl}
    return {**names, "tv": float(tv)}


def histogram(x: Float[np.ndarray, "n 2"], mixture: Mixture) -> Float[np.ndarray, "k"]:
    """Shares of samples by their nearest centre."""
    distance = np.linalg.norm(x[:, None] - np.asarray(mixture.means), axis=-1)
    return np.bincount(distance.argmin(axis=1), minlength=len(mixture.means)) / len(x)


def oracle_mean(made: Method, mixture: Mixture, key: Key[Array, ""], n: int) -> np.ndarray:
    """Samples with the exact posterior mean as denoiser: the best that a Gaussian denoiser can do."""
    denoise = mixture_denoiser(made.process, *mixture)
    run = jax.jit(
        lambda keys: sample(keys, denoise, made.process, posterior(), grid(made.steps), shape=_SHAPE).x
    )
    return np.asarray(run(jax.random.split(key, n)))


def spread(
    made: Method, params: Params, mixture: Mixture, index: int, key: Key[Array, ""], n: int
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
