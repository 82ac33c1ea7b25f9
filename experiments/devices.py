"""The devices of a run: joining other hosts, the mesh, and what a figure's reader must know of them."""

from typing import Any

import jax
from jax.sharding import Mesh

from diffax import checks
from diffax.training import make_mesh, parse_mesh


def open_mesh(mesh: str, cpu_devices: int) -> Mesh:
    """The mesh that a configuration asks for.

    On a CPU, ``cpu_devices`` cores (or shares of one) serve as devices: two train a small network faster than
    one, and eight show what a pod would do.
    """
    checks.require(cpu_devices >= 1, "config.cpu_devices", cpu_devices, "an integer >= 1")
    sizes = parse_mesh(mesh)
    if cpu_devices > 1 and not _is_running():
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    return make_mesh(*sizes)


def set_compilation_cache(folder: str) -> None:
    """Keep compiled programs in a folder; "" for none."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def environment() -> dict[str, Any]:
    """What a figure's reader must know of where it was measured."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }


def _is_running() -> bool:
    """Whether JAX has started already: its devices stand then."""
    from jax._src import xla_bridge

    return bool(xla_bridge.backends_are_initialized())
