"""How tests train an experiment in their own process."""

import jax
import numpy as np

from diffax.training import train
from experiments.registry import make_experiment


def same(a, b):
    """Whether two trees of arrays are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def run(config, steps, mesh=None, store=None):
    """The state after so many steps of a configuration."""
    parts = make_experiment(config)
    init = lambda: parts.init(jax.random.key(0))  # noqa: E731
    return train(
        init, parts.train_step, parts.data(0, 1), num_steps=steps, log_every=5, mesh=mesh, checkpoints=store
    )
