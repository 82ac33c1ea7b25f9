"""Several processes as one program: joining, waiting for each other, agreeing, and who writes files."""

import os
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from diffax import checks


def initialize(coordinator: str = "", process_count: int = 0, process_id: int = -1) -> None:
    """Join the processes of a run; call it before anything touches a device.

    ``coordinator`` is ``host:port`` of process 0. What is left empty is read from ``DIFFAX_COORDINATOR``,
    ``DIFFAX_PROCESS_COUNT`` and ``DIFFAX_PROCESS_ID``; where those are not set either, JAX asks the cluster
    (a TPU pod, SLURM, Open MPI, Kubernetes). Raises ``ValueError`` for some values without the others, and
    where no cluster answers.
    """
    coordinator = coordinator or os.environ.get("DIFFAX_COORDINATOR", "")
    count = process_count or _from_environment("DIFFAX_PROCESS_COUNT", 0)
    index = process_id if process_id >= 0 else _from_environment("DIFFAX_PROCESS_ID", -1)
    given = (bool(coordinator), count > 0, index >= 0)
    allowed = "all three of coordinator, process_count and process_id, or none on a cluster"
    checks.require(all(given) or not any(given), "multihost", (coordinator, count, index), allowed)
    if not any(given):
        _join_cluster()
        return
    checks.require(index < count, "process_id", index, f"0 .. {count - 1}")
    checks.require(":" in coordinator, "coordinator", coordinator, "host:port")
    jax.distributed.initialize(coordinator, count, index)


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process is here; ``name`` is the same in all."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def all_agree(value: bool) -> bool:
    """Whether the value is true in every process."""
    return bool(np.all(from_all(np.asarray(value))))


def from_main(values: list[bool]) -> list[bool]:
    """The first process's answers, in every process."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return [bool(v) for v in multihost_utils.broadcast_one_to_all(np.asarray(values))]


def from_all(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "processes ..."]:
    """Every process's value, stacked, in every process."""
    if jax.process_count() == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value))


def gather(tree: Any) -> Any:
    """Global arrays as numpy arrays, whole, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda leaf: multihost_utils.process_allgather(leaf, tiled=True), tree)


def _join_cluster() -> None:
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        allowed = "a cluster that JAX knows, or --coordinator, --process_count and --process_id"
        raise ValueError(f"multihost: got no cluster ({error}), allowed: {allowed}") from error


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    checks.require(text.isdigit(), name, text, "a whole number")
    return int(text)
