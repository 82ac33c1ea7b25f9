"""Meshes of devices: the one place where axes are made."""

from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffax import checks

_T = TypeVar("_T")


def make_mesh(devices: int | None = None, axis: str = "data") -> Mesh:
    """A one-dimensional mesh over the first ``devices`` devices (default: all), with an automatic axis.

    Explicit axes, JAX's default, break ordinary attention. Raises ``ValueError`` where more devices are
    asked for than there are.
    """
    present = jax.device_count()
    count = present if devices is None else devices
    checks.require(1 <= count <= present, "devices", count, f"1 to {present}, the devices present")
    chosen = jax.devices()[:count]
    return jax.make_mesh((count,), (axis,), axis_types=(AxisType.Auto,), devices=chosen)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over the mesh's first axis."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def replicate(tree: _T, mesh: Mesh) -> _T:
    """A copy of every leaf on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
