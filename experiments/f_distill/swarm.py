"""The particle study through the launcher: training moves the points, evaluation counts modes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax.data import MixtureStream, ring, sample_mixture
from diffax.io import samples
from diffax.losses.divergences import divergence
from diffax.training import NetState, TrainState
from diffax.training.step import Batch, Metrics
from experiments.base import Experiment
from experiments.f_distill import pictures
from experiments.f_distill.particles import Study, measure, move, start
from experiments.figures import as_figures, as_rows


def make_experiment(config: ConfigDict) -> Experiment:
    """Points in place of a generator on the ring of ``config``, one move a step."""
    own, mixture, rule = config.particles, ring(), divergence(config.divergence)
    study = Study(
        own.n, own.start_std, config.train.num_steps, own.step_size, own.settle,
        float(config.noise.low), float(config.noise.high),
    )  # fmt: skip

    def init(key: Key[Array, ""]) -> TrainState:
        start_key, run_key = jax.random.split(key)
        net = NetState(params=start(study, mixture, start_key), opt_state=(), ema={})
        return TrainState.create(run_key, {"particles": net})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        old = state.nets["particles"]
        new = move(study, rule, mixture, old.params, state.step, state.step_key())
        moved = jnp.mean(jnp.linalg.norm(new - old.params, axis=-1))
        state = state.replace(step=state.step + 1, nets={"particles": old.replace(params=new)})
        return state, {"loss": moved}

    def evaluate(state: TrainState, workdir: Path) -> dict[str, Any]:
        x = np.asarray(state.nets["particles"].params)
        spread = measure(x, mixture)
        found = {
            "": {"modes": spread.modes, "tv": spread.total_variation, "high_quality": spread.high_quality}
        }
        draw(state, workdir)
        pictures.draw_weights(workdir / "weights.png", config.divergence)
        rows, about = as_rows(found, config.divergence), {"divergence": config.divergence}
        return {"figures": as_figures(found, n_fake=len(x), seed=config.seed), "rows": rows, "notes": about}

    def draw(state: TrainState, workdir: Path) -> None:
        x = np.asarray(state.nets["particles"].params)
        samples.write_npz(workdir / "samples.npz", x=x)
        real = np.asarray(sample_mixture(mixture, jax.random.key(0), len(x)))
        pictures.draw_points(workdir, {"particles": x, "real": real})

    def data(index: int, count: int) -> MixtureStream:
        return MixtureStream(
            mixture, 1, config.seed, shard_index=index, shard_count=count
        )  # nothing is learned

    return Experiment(init, train_step, data, evaluate, draw)
