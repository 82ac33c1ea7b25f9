"""Files: checkpoints, metrics, pictures. Orbax, pillow and TensorBoard are imported at first use."""

from diffax.io.checkpoint import CheckpointError, CheckpointStore
from diffax.io.files import write_atomically, write_json, write_text
from diffax.io.images import save_png, tile, to_uint8
from diffax.io.metrics import MetricsWriter, read_metrics

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "MetricsWriter",
    "read_metrics",
    "save_png",
    "tile",
    "to_uint8",
    "write_atomically",
    "write_json",
    "write_text",
]
