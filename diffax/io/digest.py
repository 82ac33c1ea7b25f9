"""A fingerprint of a tree of arrays that is the same on every mesh: storage does not notice a flipped bit.

Every 32-bit word w at position i of an array is mixed with its position, and the mixes are summed modulo
2^32. Sums of integers do not depend on their order, so each device adds up what it holds, nothing is gathered
and nothing copied to the host but two words an array. One changed word always changes the sum.
"""

import hashlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def digest(tree: Any) -> str:
    """SHA-256, in hexadecimal, over the path, dtype, shape and sums of every array of a tree."""
    total = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get([_sums_where_it_lies(leaf) for _, leaf in leaves])
    for (path, leaf), pair in zip(leaves, sums, strict=True):
        name = f"{jax.tree_util.keystr(path)}{leaf.dtype}{tuple(leaf.shape)}"
        total.update(name.encode() + np.asarray(pair, "<u4").tobytes())
    return total.hexdigest()


def _sums_where_it_lies(leaf: Any) -> Any:
    """On a CPU by numpy, which has nothing to compile; elsewhere on the devices."""
    on_host = not isinstance(leaf, jax.Array) or (
        leaf.is_fully_addressable and next(iter(leaf.devices())).platform == "cpu"
    )
    return _sums(np.asarray(leaf), np) if on_host else _device_sums(leaf)


def _sums(leaf: Any, xp: ModuleType) -> Any:
    words = _words(leaf, xp)
    position, stride = xp.zeros((1,) * words.ndim, xp.uint32), 1
    for axis in reversed(range(words.ndim)):
        along = [-1 if i == axis else 1 for i in range(words.ndim)]
        steps = xp.arange(words.shape[axis], dtype=xp.uint32).reshape(along)
        position = position + steps * xp.asarray(stride % 2**32, xp.uint32)
        stride *= words.shape[axis]
    first = _mix(words * xp.asarray(0x9E3779B1, xp.uint32) + _mix(position, xp), xp)
    second = _mix(first ^ xp.asarray(0x85EBCA77, xp.uint32), xp)
    return xp.stack([first.sum(dtype=xp.uint32), second.sum(dtype=xp.uint32)])


_device_sums = jax.jit(lambda leaf: _sums(leaf, jnp))


def _words(leaf: Any, xp: ModuleType) -> Any:
    """The bits of every element as 32-bit words, of a 64-bit element as two; at least one axis."""
    leaf = leaf.reshape(leaf.shape or (1,))
    if leaf.dtype == bool:
        leaf = leaf.astype(xp.uint8)
    if leaf.dtype.itemsize == 8:
        return leaf.view(xp.uint32)
    unsigned = {1: xp.uint8, 2: xp.uint16, 4: xp.uint32}[leaf.dtype.itemsize]
    return leaf.view(unsigned).astype(xp.uint32)


def _mix(x: Any, xp: ModuleType) -> Any:
    """A bijection of 32-bit words in which every bit depends on every other (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * xp.asarray(0x85EBCA6B, xp.uint32)
    x = (x ^ (x >> 13)) * xp.asarray(0xC2B2AE35, xp.uint32)
    return x ^ (x >> 16)
