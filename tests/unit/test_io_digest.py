"""The fingerprint of a tree: the same on every mesh, on host and device, and other for every other tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from diffax.io import digest as module
from diffax.io.digest import digest
from diffax.training import make_mesh

ARRAYS = {
    "float32": np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32),
    "bfloat16": jnp.arange(16, dtype=jnp.bfloat16).reshape(2, 8),
    "bool": np.array([True, False, True, True]),
    "int8": np.array([[1, -5], [7, 0]], np.int8),
    "scalar": np.float32(3.0),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_host_and_device_sums_agree(name):
    value = jnp.asarray(ARRAYS[name])
    origin = np.zeros(value.ndim, np.uint32)
    host = module._sums(np.asarray(value), origin, value.shape)
    np.testing.assert_array_equal(host, module._device_sums(value, origin, value.shape))


def test_sixty_four_bits(float64):
    value = jnp.arange(6.0, dtype=jnp.float64).reshape(2, 3)
    origin = np.zeros(2, np.uint32)
    host = module._sums(np.asarray(value), origin, value.shape)
    np.testing.assert_array_equal(host, module._device_sums(value, origin, value.shape))
    assert digest({"a": value}) != digest({"a": value.at[1, 2].add(1e-9)})


@pytest.mark.parametrize("spec", [("data",), (None, "fsdp"), ("fsdp", "tensor", "data"), (("data", "fsdp"),)])
def test_every_placement_has_the_same_digest(spec):
    mesh = make_mesh(2, 2, 2)
    value = ARRAYS["float32"]
    placed = jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))
    assert digest({"a": placed}) == digest({"a": jnp.asarray(value)})


def test_a_flipped_bit_a_swap_and_a_name_change_it():
    value = ARRAYS["float32"]
    seen = {digest({"a": value})}
    for bit in range(32):
        bits = value.copy().view(np.uint32)
        bits[5, 2, 3] ^= np.uint32(1 << bit)
        seen.add(digest({"a": bits.view(np.float32)}))
    swapped = value.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    seen |= {digest({"a": swapped}), digest({"b": value}), digest({"a": value.reshape(4, 8, 6)})}
    assert len(seen) == 1 + 32 + 3
