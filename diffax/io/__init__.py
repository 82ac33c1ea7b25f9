"""Files: checkpoints, metrics, pictures. Orbax, pillow and TensorBoard are imported at first use."""

from diffax.io.checkpoint import CheckpointError, CheckpointStore
from diffax.io.convert import from_diffusers, load_diffusers, save_diffusers, to_diffusers
from diffax.io.files import write_atomically, write_json, write_text
from diffax.io.images import save_png, tile, to_uint8
from diffax.io.metrics import MetricsWriter, read_metrics
from diffax.io.weights import load_params, read_tensors, save_params

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "MetricsWriter",
    "from_diffusers",
    "load_diffusers",
    "load_params",
    "read_metrics",
    "read_tensors",
    "save_diffusers",
    "save_params",
    "save_png",
    "tile",
    "to_diffusers",
    "to_uint8",
    "write_atomically",
    "write_json",
    "write_text",
]
