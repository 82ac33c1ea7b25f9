"""Compile a batched function for one device, a mesh, or the older pmap interface: same results."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffax import checks


def compile(
    fn: Callable[..., Any],
    backend: str = "jit",
    mesh: Mesh | None = None,
    batched: Sequence[int] = (0,),
) -> Callable[..., Any]:
    """Compile ``fn``, whose arguments numbered in ``batched`` have a leading batch axis on every leaf.

    The other arguments are replicated. Every output leaf is batched or a scalar that does not depend on
    the sample. ``backend="jit"`` splits the batch over the axes of ``mesh`` but "tensor" (default: one
    device); ``"pmap"`` over all local devices.

    Raises:
      ValueError: for an unknown backend, or a batch that the devices do not divide.
    """
    checks.require_one_of("backend", backend, ("jit", "pmap"))
    return _pmapped(fn, batched) if backend == "pmap" else _jitted(fn, mesh, batched)


def _jitted(fn: Callable[..., Any], mesh: Mesh | None, batched: Sequence[int]) -> Callable[..., Any]:
    compiled = jax.jit(fn)
    if mesh is None:
        return compiled
    axes = tuple(name for name in mesh.axis_names if name != "tensor")
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    devices = math.prod(mesh.shape[name] for name in axes)

    def call(*args: Any) -> Any:
        _check_batch(args, batched, devices)
        placed = [jax.device_put(arg, sharding) if i in batched else arg for i, arg in enumerate(args)]
        return compiled(*placed)

    return call


def _pmapped(fn: Callable[..., Any], batched: Sequence[int]) -> Callable[..., Any]:
    devices = jax.local_device_count()
    compiled: dict[int, Callable[..., Any]] = {}  # pmap fixes the number of arguments: one entry for each

    def call(*args: Any) -> Any:
        _check_batch(args, batched, devices)
        if len(args) not in compiled:
            axes = tuple(0 if i in batched else None for i in range(len(args)))
            compiled[len(args)] = jax.pmap(fn, in_axes=axes)
        split = [_split(arg, devices) if i in batched else arg for i, arg in enumerate(args)]
        return jax.tree.map(_merge, compiled[len(args)](*split))

    return call


def _split(tree: Any, devices: int) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), tree)


def _merge(leaf: jax.Array) -> jax.Array:
    """Join the devices' batches; take one device's copy of a scalar."""
    return leaf.reshape(-1, *leaf.shape[2:]) if leaf.ndim > 1 else leaf[0]


def _check_batch(args: tuple[Any, ...], batched: Sequence[int], devices: int) -> None:
    for index in batched:
        for leaf in jax.tree.leaves(args[index]) if index < len(args) else ():
            size = leaf.shape[0]
            checks.require(size % devices == 0, "batch", size, f"a multiple of the {devices} devices")
