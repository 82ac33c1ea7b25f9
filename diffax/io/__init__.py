"""Files: checkpoints, metrics, pictures. Orbax, pillow and TensorBoard are imported at first use."""

from diffax.io.checkpoint import CheckpointError, CheckpointStore
from diffax.io.files import write_atomically, write_json, write_text
from diffax.io.images import save_png, tile, to_uint8
from diffax.io.metrics import MetricsWriter, read_metrics
from diffax.io.samples import in_batches, write_samples

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "MetricsWriter",
    "in_batches",
    "read_metrics",
    "save_png",
    "tile",
    "to_uint8",
    "write_atomically",
    "write_json",
    "write_samples",
    "write_text",
]
