"""Reading a state dict that a user brings: ``.npz``, or ``.safetensors`` without its package."""

import json
import struct
from pathlib import Path

import numpy as np

from diffax.checks import require
from diffax.data.npz import read_arrays

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


def read_state_dict(field: str, path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a weights file by name. Raises ``ValueError`` that names the field and the file."""
    path = Path(path)
    allowed = "an existing .npz or .safetensors file"
    require(path.is_file() and path.suffix in (".npz", ".safetensors"), field, str(path), allowed)
    try:
        return read_arrays(path) if path.suffix == ".npz" else _read_safetensors(path)
    except Exception as error:  # json, struct and numpy each raise their own
        raise ValueError(
            f"{field}: got {str(path)!r} ({error!s}), allowed: {allowed} of plain arrays"
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The format: a little-endian u64 length, a JSON header of that length, then the tensors' bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            require(entry["dtype"] in _DTYPES, f"dtype of {name}", entry["dtype"], ", ".join(_DTYPES))
            arrays[name] = np.frombuffer(data[start:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
