"""Files: checkpoints, metrics, pictures, parameters for other tools, samplers that run without this library.

Networks come from diffusers, EDM and MONAI (:mod:`diffax.io.convert`, ``convert_edm``, ``convert_monai``),
MONAI's with their schedules (``convert_schedule``), and go to diffusers.

Orbax, pillow, imageio-ffmpeg, safetensors and TensorBoard are imported at first use.
"""

from diffax.io.checkpoint import CheckpointError, CheckpointStore
from diffax.io.convert import from_diffusers, load_diffusers, save_diffusers, to_diffusers
from diffax.io.convert_edm import from_edm
from diffax.io.convert_monai import from_monai, load_monai
from diffax.io.convert_schedule import PredictionSchedule, monai_process
from diffax.io.export import (
    Argument,
    Exported,
    ExportedSampler,
    export_function,
    export_sampler,
    load_function,
    load_sampler,
    sampling_function,
    seed_keys,
)
from diffax.io.files import new_folder, write_atomically, write_json, write_text
from diffax.io.films import save_gif, save_mp4
from diffax.io.images import save_png, tile, to_uint8
from diffax.io.metrics import MetricsWriter, read_metrics
from diffax.io.samples import in_batches, write_samples
from diffax.io.volumes import (
    read_volume,
    require_square_pixels,
    require_straight,
    tilt_of,
    write_dicom,
    write_nifti,
)
from diffax.io.weights import load_params, read_tensors, save_params

__all__ = [
    "Argument",
    "CheckpointError",
    "CheckpointStore",
    "Exported",
    "ExportedSampler",
    "MetricsWriter",
    "PredictionSchedule",
    "export_function",
    "export_sampler",
    "from_diffusers",
    "from_edm",
    "from_monai",
    "in_batches",
    "load_diffusers",
    "load_function",
    "load_monai",
    "load_params",
    "load_sampler",
    "monai_process",
    "new_folder",
    "read_metrics",
    "read_tensors",
    "read_volume",
    "require_square_pixels",
    "require_straight",
    "sampling_function",
    "save_diffusers",
    "save_gif",
    "save_mp4",
    "save_params",
    "save_png",
    "seed_keys",
    "tile",
    "tilt_of",
    "to_diffusers",
    "to_uint8",
    "write_atomically",
    "write_dicom",
    "write_json",
    "write_nifti",
    "write_samples",
    "write_text",
]
