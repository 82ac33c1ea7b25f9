"""Meshes of devices and what lies where on them: the one place where axes and placements are made.

A mesh has three axes. The batch is split over ``data`` and ``fsdp`` together. Parameters, optimiser state and
averages are split over ``fsdp`` (and gathered where they are used), and by rules over ``tensor``. Everything
is one global array to the code that computes with it: XLA adds the communication, on one host or on many.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffax import checks

_T = TypeVar("_T")
Rules = Sequence[tuple[str, str]]  # (regular expression on a leaf's path, tactic), the first match counts

AXES = ("data", "fsdp", "tensor")
TACTICS = ("fsdp", "column", "row", "first", "replicate")
MIN_SIZE = 4096  # numbers in an array below which a split costs more than it saves


def parse_mesh(text: str) -> tuple[int, int, int]:
    """Sizes of the axes from ``"DATAxFSDPxTENSOR"``, such as ``"4x2x1"``, or ``"data=4,fsdp=2"``.

    One may be -1; an axis that is not named has size 1.
    """
    allowed = "three sizes as in 4x2x1 (data x fsdp x tensor) or names as in data=4,fsdp=2; one may be -1"
    size = r"(-1|[1-9]\d*)"
    plain = re.fullmatch("x".join([size] * 3), text)
    named = re.fullmatch(rf"(data|fsdp|tensor)={size}(,(data|fsdp|tensor)={size})*", text)
    checks.require(plain is not None or named is not None, "mesh", text, allowed)
    if plain is not None:
        sizes = dict(zip(AXES, plain.groups(), strict=True))
    else:
        sizes = dict(re.findall(r"(\w+)=(-?\d+)", text))
    data, fsdp, tensor = (int(sizes.get(axis, 1)) for axis in AXES)
    checks.require((data, fsdp, tensor).count(-1) <= 1, "mesh", text, allowed)
    return data, fsdp, tensor


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh over ``data x fsdp x tensor`` devices, the first of ``devices`` (default: all present).

    A size of -1 takes what the others leave. Axes are automatic: explicit ones, JAX's default, break ordinary
    attention. Raises ``ValueError`` where there are too few devices, where -1 does not come out even, or
    where a run on several hosts would leave some of their devices out.
    """
    present = list(jax.devices() if devices is None else devices)
    sizes = _fill((data, fsdp, tensor), len(present))
    count = math.prod(sizes)
    checks.require(count <= len(present), "devices", count, f"1 to {len(present)}, the devices present")
    whole = jax.process_count() == 1 or count == len(present)
    checks.require(whole, "mesh", sizes, f"a mesh of all {len(present)} devices, on several hosts")
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=present[:count])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: _T, mesh: Mesh) -> _T:
    """A copy of every leaf on every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts a batch is split; its size must be a multiple."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def data_shard(mesh: Mesh) -> tuple[int, int]:
    """This process's part of each global batch, ``(shard_index, shard_count)`` for the pipeline.

    Processes whose devices hold the same rows (a tensor axis across hosts) share an index.
    """
    parts = batch_devices(mesh)
    rows = batch_sharding(mesh).addressable_devices_indices_map((parts,)).values()
    starts = sorted({(index[0].indices(parts)[0]) for index in rows if index is not None})
    count = parts // len(starts)
    contiguous = starts == list(range(starts[0], starts[0] + len(starts))) and starts[0] % len(starts) == 0
    checks.require(contiguous, "mesh", dict(mesh.shape), "a mesh whose hosts hold contiguous rows of a batch")
    return starts[0] // len(starts), count


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows as part of global arrays; entries that no device can hold (names) stay behind.

    Raises ``ValueError`` for a batch that the devices do not divide.
    """
    numbers = {name: np.asarray(value) for name, value in batch.items()}
    numbers = {name: value for name, value in numbers.items() if value.dtype.kind in "fiub"}
    local = batch_devices(mesh) // data_shard(mesh)[1]
    for name, value in numbers.items():
        allowed = f"a multiple of {local}, the devices of this process that share it"
        checks.require(
            value.ndim > 0 and value.shape[0] % local == 0, f"batch[{name!r}]", value.shape, allowed
        )
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in numbers.items()}


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Global arrays from values that every process holds whole."""
    return jax.device_put(tree, sharding)


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules = (), min_size: int = MIN_SIZE) -> Any:
    """Where every array of a state (or of its shapes) lies: the first rule that its path matches, or "fsdp".

    A path reads ``nets/model/params/down0_block0/conv_in/kernel``; optimiser and averages repeat the names
    of the parameters, so one rule places all of them. Tactics:

    * ``"fsdp"``: split the largest axis that ``fsdp`` divides; arrays below ``min_size`` numbers are copied.
    * ``"column"``: split the last axis over ``tensor`` (a layer's outputs), and another one as "fsdp".
    * ``"row"``: split the last but one over ``tensor`` (a layer's inputs), and another one as "fsdp".
    * ``"first"``: split the first axis over ``tensor`` (a bank's experts), and another one as "fsdp".
    * ``"replicate"``: a copy on every device.

    A split that does not come out even is left out. Raises ``ValueError`` for an unknown tactic.
    """
    for pattern, tactic in rules:
        checks.require_one_of(f"tactic of {pattern!r}", tactic, TACTICS)

    def one(path: Any, leaf: Any) -> NamedSharding:
        name = "/".join(_name(part) for part in path)
        tactic = next((tactic for pattern, tactic in rules if re.search(pattern, name)), "fsdp")
        return NamedSharding(mesh, _spec(tuple(leaf.shape), tactic, mesh, min_size))

    return jax.tree_util.tree_map_with_path(one, tree)


def abstract(init: Callable[[], _T], mesh: Mesh, rules: Rules = ()) -> _T:
    """The shapes and placements of what :func:`create` would make, without making it."""
    shapes = jax.eval_shape(init)
    shardings = tree_shardings(shapes, mesh, rules)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, shardings
    )


def create(init: Callable[[], _T], mesh: Mesh, rules: Rules = ()) -> _T:
    """Call ``init`` so that every array is born where it belongs: no device ever holds the whole state.

    Compiled without optimisation: the program runs once, and random numbers are slow to optimise.
    """
    shardings = tree_shardings(jax.eval_shape(init), mesh, rules)
    options = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else {}
    return jax.jit(init, out_shardings=shardings, compiler_options=options)()


def mesh_of(tree: Any) -> Mesh:
    """The mesh on which a state or its parameters lie; the first device alone for arrays without one."""
    for leaf in jax.tree.leaves(tree):
        found = getattr(leaf, "sharding", None)
        if isinstance(found, NamedSharding) and isinstance(found.mesh, Mesh):
            return found.mesh
    return make_mesh(1)


def shardings_of(tree: Any) -> Any:
    """Where every array lies now."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def bytes_per_device(tree: Any) -> dict[int, int]:
    """Bytes of live arrays by device of this process, copies counted on each."""
    held: dict[int, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            size = math.prod(shard.data.shape) * _itemsize(leaf)
            held[shard.device.id] = held.get(shard.device.id, 0) + size
    return held


def _itemsize(leaf: Any) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf).nbytes // max(leaf.size, 1)
    return leaf.dtype.itemsize


def _fill(sizes: tuple[int, int, int], present: int) -> tuple[int, ...]:
    """The sizes with -1 replaced by what the others leave."""
    checks.require(
        all(size == -1 or size >= 1 for size in sizes), "mesh", sizes, "sizes of at least 1, or -1"
    )
    if -1 not in sizes:
        return sizes
    known = math.prod(size for size in sizes if size != -1)
    allowed = f"sizes that divide the {present} devices present, one of them -1"
    checks.require(sizes.count(-1) == 1 and present % known == 0, "mesh", sizes, allowed)
    return tuple(present // known if size == -1 else size for size in sizes)


def _name(part: Any) -> str:
    """A path's part without JAX's punctuation."""
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _spec(shape: tuple[int, ...], tactic: str, mesh: Mesh, min_size: int) -> PartitionSpec:
    """The placement of one array under a tactic."""
    axes: list[str | None] = [None] * len(shape)
    split = {"column": len(shape) - 1, "row": len(shape) - 2, "first": 0 if shape else -1}.get(tactic, -1)
    tensor = mesh.shape["tensor"]
    if split >= 0 and tensor > 1 and shape[split] % tensor == 0:
        axes[split] = "tensor"
    fsdp = mesh.shape["fsdp"]
    if tactic != "replicate" and fsdp > 1 and math.prod(shape) >= min_size:
        free = [i for i, size in enumerate(shape) if axes[i] is None and size % fsdp == 0]
        if free:
            axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)
