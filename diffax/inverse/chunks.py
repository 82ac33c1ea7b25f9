"""Slices through a network a few at a time: memory bounded by the chunk, slices shared among devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.types import Cond, DenoiseFn, DenoiseTransform


def in_chunks(size: int, mesh: Mesh | None = None) -> DenoiseTransform:
    """Call the denoiser on ``size`` samples at a time (a device), whatever the batch.

    With a mesh, each device works through its own share of the batch. Batches are filled up with copies of
    their last sample where they do not divide; what comes of these is cut off. Results do not depend on
    ``size`` or the mesh, as long as the denoiser treats samples independently.
    """
    require(size >= 1, "size", size, "an integer >= 1")

    def transform(denoise: DenoiseFn) -> DenoiseFn:
        def chunked(x: Float[Array, "b ..."], t: Float[Array, "b"], cond: Cond | None = None) -> Array:
            def local(x: Array, t: Array, cond: Cond | None) -> Array:
                return _in_turn(denoise, size, x, t, cond)

            devices = 1 if mesh is None else mesh.size
            filled = jax.tree.map(lambda v: _fill(v, devices), (x, t, cond))
            if mesh is None or devices == 1:
                return local(*filled)[: x.shape[0]]
            rows = PartitionSpec(mesh.axis_names)
            run = jax.shard_map(
                local, mesh=mesh, in_specs=(rows, rows, rows), out_specs=rows, check_vma=False
            )
            return run(*filled)[: x.shape[0]]

        return chunked

    return transform


def _in_turn(denoise: DenoiseFn, size: int, x: Array, t: Array, cond: Cond | None) -> Array:
    if x.shape[0] <= size:
        return denoise(x, t, cond)

    def cut(v: Array) -> Array:
        return _fill(v, size).reshape(-1, size, *v.shape[1:])

    def one(part: tuple[Any, Any, Any]) -> Array:
        return denoise(*part)

    parts = jax.lax.map(one, jax.tree.map(cut, (x, t, cond)))
    return parts.reshape(-1, *parts.shape[2:])[: x.shape[0]]


def _fill(v: Array, multiple: int) -> Array:
    """Repeat the last entry until the length is a multiple."""
    missing = -v.shape[0] % multiple
    return jnp.concatenate([v, jnp.repeat(v[-1:], missing, axis=0)]) if missing else v
