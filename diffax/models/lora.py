r"""Low-rank changes of matrices: training that moves few numbers.

    W' = W + (scale / rank) A B,    A (n, rank) drawn, B (rank, m) zero at first

Source: Hu et al. 2021 (arXiv:2106.09685), eq. 3.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key

from diffax.checks import require
from diffax.types import Params

Factors = dict[str, dict[str, Array]]  # of each matrix, by its path joined by "/": "a" and "b"


def init_lora(key: Key[Array, ""], params: Params, rank: int, pattern: str = "/kernel$") -> Factors:
    """Factors for every matrix whose path fits the pattern; they change nothing yet.

    Raises ValueError for a rank below 1, or a pattern that no matrix fits.
    """
    require(rank >= 1, "rank", rank, "an integer >= 1")
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    chosen = [name for name, leaf in flat.items() if re.search(pattern, name) and leaf.ndim == 2]
    require(bool(chosen), "pattern", pattern, "one that the path of a matrix fits")
    keys = jax.random.split(key, len(chosen))
    return {
        name: {
            "a": jax.random.normal(k, (flat[name].shape[0], rank)) / jnp.sqrt(flat[name].shape[0]),
            "b": jnp.zeros((rank, flat[name].shape[1])),
        }
        for name, k in zip(chosen, keys, strict=True)
    }


def merge_lora(params: Params, factors: Mapping[str, Mapping[str, Array]], scale: float = 1.0) -> Params:
    """Parameters with the changes in them, in the types that they had.

    ``scale`` is the paper's alpha. Raises ValueError for factors of a matrix that is not there.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(dict(params), sep="/")
    for name, pair in factors.items():
        require(name in flat, "factors", name, "a path of the parameters")
        change = (scale / pair["a"].shape[1]) * (pair["a"] @ pair["b"])
        flat[name] = (flat[name] + change).astype(flat[name].dtype)
    return traverse_util.unflatten_dict(flat, sep="/")
