"""Settings that must stand before JAX starts: 8 virtual CPU devices, a compilation cache, checked types."""

import os
import tempfile
from pathlib import Path

flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
# Tiny networks: compiling takes longer than running. Nearly half of that time is saved, also in programs that
# tests start (XLA's newer emitters of fusions take 40 ms for the smallest program, the older ones 25).
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("diffax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

_CACHE = os.environ.get("DIFFAX_TEST_CACHE", str(Path(tempfile.gettempdir()) / "diffax-jax-cache"))
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def float64():
    """Double precision, for tests that measure an order of convergence."""
    with jax.enable_x64(True):
        yield
