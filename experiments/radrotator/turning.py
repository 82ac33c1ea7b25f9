"""A trained network as a function of pictures and angles, for evaluations and programs."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from diffax import checks
from experiments import build, modes
from experiments.radrotator import method
from experiments.workdir import read_config

Images = Float[np.ndarray, "n h w 1"]


class Turn(Protocol):
    """Radiographs in [-1, 1] and vectors (degrees over the trained limit) to views, from the noise of a seed.

    Every radiograph has its own noise; with ``together`` all have that of the first, so that views of one
    patient agree in what the radiograph leaves open.
    """

    def __call__(
        self, image: Images, vector: Float[np.ndarray, "n 3"], seed: int, together: bool = False
    ) -> Images: ...


class Turner(NamedTuple):
    """A network out of a run's folder: its configuration, and how it turns ``size`` x ``size`` pictures."""

    config: ConfigDict
    turn: Turn

    @property
    def size(self) -> int:
        """The side of its pictures in pixels."""
        return int(self.config.arm.size)

    @property
    def limit(self) -> float:
        """The largest angle that was trained, in degrees."""
        return float(self.config.angles.limit)

    def views(
        self, image: Float[np.ndarray, "h w"], angles: Float[np.ndarray, "n 3"], seed: int = 0
    ) -> Float[np.ndarray, "n h w"]:
        """A radiograph in [0, 1] at angles in degrees (yaw, pitch, roll), in [0, 1]; one noise for all."""
        given = np.broadcast_to(2 * image[None, ..., None] - 1, (len(angles), *image.shape, 1))
        vector = np.asarray(angles, np.float32) / self.limit
        found = self.turn(np.asarray(given, np.float32), vector, seed, True)
        return (np.clip(found[..., 0], -1, 1) + 1) / 2


def load_turner(workdir: str | Path, checkpoint: str = "newest", batch_size: int = 16) -> Turner:
    """The network of a run; ``ValueError`` for a folder that holds none of this experiment."""
    folder = Path(workdir)
    config = read_config(folder)
    kind = config.get("experiment")
    checks.require(kind == "radrotator", "--workdir", str(workdir), "the folder of a radrotator run")
    _, state = modes.load(config, folder, checkpoint)
    return Turner(config, make_turn(config, method.parameters(config, state), batch_size))


def make_turn(config: ConfigDict, params: Any, batch_size: int = 0) -> Turn:
    """The network with its parameters, in batches of one size (0: the evaluation's)."""
    rotate = method.make_rotate(config, build.make_model(config.model, 0), build.make_process(config.process))
    params, size = jax.tree.map(jnp.asarray, params), batch_size or config.eval.batch_size

    def turn(image: Images, vector: Float[np.ndarray, "n 3"], seed: int, together: bool = False) -> Images:
        count = len(image)
        index = np.arange(-(-count // size) * size) % count
        keys = keys_of(seed, np.zeros_like(index) if together else index)
        found = []
        for start in range(0, len(index), size):
            part = slice(start, start + size)
            rows = index[part]
            found.append(
                np.asarray(rotate(params, keys[part], jnp.asarray(image[rows]), jnp.asarray(vector[rows])))
            )
        return np.concatenate(found)[:count]

    return turn


def keys_of(seed: int, numbers: np.ndarray) -> jax.Array:
    """A key for each number under one seed."""
    key = jax.random.key(seed)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.asarray(numbers, jnp.uint32))
