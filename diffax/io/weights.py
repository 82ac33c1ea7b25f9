"""Parameters as safetensors: a file of named arrays that other tools read, and that runs no code when read.

Format: https://huggingface.co/docs/safetensors. Needs ``pip install "diffax[export]"``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.io.files import write_atomically
from diffax.types import Params

Tensors = dict[str, np.ndarray]


def save_params(
    path: str | os.PathLike[str], params: Params, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write nested dictionaries of arrays to one file, whole or not at all; dtypes, bfloat16 too, are kept.

    An array's name is its keys joined by "/", such as "stem/kernel". ``metadata`` is text kept in the header.
    Raises ValueError for an empty tree, keys that are no strings without "/", leaves that are no arrays, or
    metadata that is no text.
    """
    write_tensors(path, flatten_params(params), metadata)


def load_params(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Nested dictionaries of numpy arrays and the metadata, as :func:`save_params` wrote them.

    ``jax.device_put(params)`` moves them to the accelerator once. Raises ValueError for a file that is
    missing, damaged, or holds names that do not nest ("a" beside "a/b").
    """
    tensors, metadata = read_tensors(path)
    for name in tensors:
        parts = name.split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        require(all(parts) and not above & tensors.keys(), "name of an array", name, "keys that nest")
    return traverse_util.unflatten_dict(tensors, sep="/"), metadata


def flatten_params(params: Params) -> Tensors:
    """Arrays of nested dictionaries under their keys joined by "/"; raises as :func:`save_params`."""
    flat: Tensors = {}
    _collect(params, (), flat)
    require(bool(flat), "params", params, "nested dictionaries with at least one array")
    return flat


def _collect(node: Any, keys: tuple[str, ...], flat: Tensors) -> None:
    if not isinstance(node, Mapping):
        name = "/".join(keys)
        kind = type(node).__name__
        require(hasattr(node, "dtype") and hasattr(node, "shape"), f"params {name!r}", kind, "arrays")
        flat[name] = np.asarray(node)
        return
    for key, child in node.items():
        require(isinstance(key, str) and key != "" and "/" not in key, "key", key, "strings without '/'")
        _collect(child, (*keys, key), flat)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file atomically; ValueError for metadata that is not text."""
    library = optional_import("safetensors.numpy", "export")
    text = dict(metadata or {})
    require(all(isinstance(v, str) for v in text.values()), "metadata", text, "strings")
    # The library reads raw memory: what is not contiguous would be written in the wrong order.
    whole = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    write_atomically(path, lambda temporary: library.save_file(whole, temporary, metadata=text))


def read_tensors(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """The arrays and the metadata of a safetensors file; ValueError where it is missing or damaged."""
    file = TensorFile(path)
    return {name: file.read(name) for name in file.names}, file.metadata


class TensorFile:
    """A safetensors file: ``path``, ``names`` and ``metadata`` at once, tensors when asked for.

    Raises ValueError for a file that is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        library = optional_import("safetensors", "export")
        require(Path(path).is_file(), "path", str(path), "a safetensors file")
        try:
            self._file = library.safe_open(path, framework="np")
        except library.SafetensorError as error:
            raise ValueError(f"path: got {path} ({error}), allowed: a whole safetensors file") from error
        self.path = Path(path)
        self.names: list[str] = list(self._file.keys())
        self.metadata: dict[str, str] = dict(self._file.metadata() or {})

    def read(self, name: str) -> np.ndarray:
        """A tensor, copied."""
        return np.array(self._file.get_tensor(name))

    def about(self, name: str) -> tuple[tuple[int, ...], str]:
        """Its shape, and its type by numpy's name, without reading it."""
        part = self._file.get_slice(name)
        kind = str(part.get_dtype())
        return tuple(part.get_shape()), _TYPES.get(kind, kind)


_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32"}
