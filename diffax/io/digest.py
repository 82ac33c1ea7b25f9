"""A fingerprint of a tree of arrays that is the same on every mesh: storage does not notice a flipped bit.

Every 32-bit word w at position i of an array is mixed with its position, and the mixes are summed modulo
2^32. Sums of integers do not depend on their order, so each device adds up the part that it holds, and
nothing is gathered but two words an array. One changed word always changes the sum.
"""

import hashlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffax.training import distributed


def digest(tree: Any) -> str:
    """SHA-256, in hexadecimal, over the path, dtype, shape and sums of every array of a tree.

    On several hosts all call it, with the same global arrays.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    parts = jax.device_get([_local_sums(leaf) for _, leaf in leaves])  # dispatched together, fetched once
    own = np.stack([np.sum(part, axis=0, dtype=np.uint32) for part in parts])
    sums = np.asarray(np.sum(distributed.from_all(own), axis=0, dtype=np.uint32))
    total = hashlib.sha256()
    for (path, leaf), pair in zip(leaves, sums, strict=True):
        name = f"{jax.tree_util.keystr(path)}{leaf.dtype}{tuple(leaf.shape)}"
        total.update(name.encode() + np.asarray(pair, "<u4").tobytes())
    return total.hexdigest()


def _local_sums(leaf: Any) -> list[Any]:
    """Sums of the parts of an array that this process holds, each part once; on a CPU by numpy, which has
    nothing to compile."""
    leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    sums = [np.zeros(2, np.uint32)]
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            origin = np.asarray([part.start or 0 for part in shard.index], np.uint32)
            on_cpu = shard.device.platform == "cpu"
            part = np.asarray(shard.data) if on_cpu else shard.data
            sums.append((_sums if on_cpu else _device_sums)(part, origin, leaf.shape))
    return sums


def _sums(part: Any, origin: Any, shape: tuple[int, ...], xp: ModuleType = np) -> Any:
    """Two sums over a part of an array of that shape, which starts at ``origin``."""
    words = _words(part, xp)  # with a last axis: the words of an element
    position, stride = xp.arange(words.shape[-1], dtype=xp.uint32), words.shape[-1]
    for axis in reversed(range(len(shape))):
        steps = xp.arange(words.shape[axis], dtype=xp.uint32) + origin[axis]
        position = position + (steps * xp.asarray(stride % 2**32, xp.uint32)).reshape(
            (-1,) + (1,) * (words.ndim - 1 - axis)
        )
        stride *= shape[axis]
    first = _mix(words * xp.asarray(0x9E3779B1, xp.uint32) + _mix(position, xp), xp)
    second = _mix(first ^ xp.asarray(0x85EBCA77, xp.uint32), xp)
    return xp.stack([first.sum(dtype=xp.uint32), second.sum(dtype=xp.uint32)])


_device_sums = jax.jit(lambda part, origin, shape: _sums(part, origin, shape, jnp), static_argnums=2)


def _words(part: Any, xp: ModuleType) -> Any:
    """The bits of every element as 32-bit words, along a new last axis: two of an element of 64 bits."""
    if part.dtype == bool:
        part = part.astype(xp.uint8)
    part = part.reshape((*part.shape, 1))
    if part.dtype.itemsize == 8:
        return part.view(xp.uint32)
    unsigned = {1: xp.uint8, 2: xp.uint16, 4: xp.uint32}[part.dtype.itemsize]
    return part.view(unsigned).astype(xp.uint32)


def _mix(x: Any, xp: ModuleType) -> Any:
    """A bijection of 32-bit words in which every bit depends on every other (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * xp.asarray(0x85EBCA6B, xp.uint32)
    x = (x ^ (x >> 13)) * xp.asarray(0xC2B2AE35, xp.uint32)
    return x ^ (x >> 16)
