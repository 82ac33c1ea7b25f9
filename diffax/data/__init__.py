"""Data: sources of images, distributions in the plane, and the pipeline that makes batches of them.

``grain``, ``pillow``, ``pyarrow`` and ``scikit-learn`` (``pip install "diffax[data]"``) are imported by
the functions that need them, and so are ``nibabel`` and ``pydicom`` (``"diffax[medical]"``), ``h5py``,
``zarr`` and ``pyarrow`` (``"diffax[robots]"``), ``tokenizers`` (``"diffax[text]"``).
"""

from diffax.data.augment import Augmentation, horizontal_flip, random_shift
from diffax.data.corpus import standard_library_text
from diffax.data.cubes import open_cubes
from diffax.data.decode import read_image
from diffax.data.demonstrations import Demonstrations
from diffax.data.dequantize import dequantize, levels_of, requantize
from diffax.data.dicom import read_dicom
from diffax.data.digits import digits
from diffax.data.episode_files import read_demonstrations, write_demonstrations
from diffax.data.episodes import Episodes, Windows
from diffax.data.folder import open_folder
from diffax.data.lerobot_writer import write_lerobot
from diffax.data.npz import open_npz
from diffax.data.parquet import open_parquet
from diffax.data.pipeline import Pipeline, epoch, pipeline
from diffax.data.points import (
    MIXTURES,
    Mixture,
    checkerboard,
    grid,
    points,
    ring,
    sample_mixture,
    swiss_roll,
    three_modes,
    two_moons,
)
from diffax.data.radiographs import Radiograph, fit_square, read_radiograph, undo_square
from diffax.data.registry import cifar10, mnist, open_source
from diffax.data.slices import SliceSource, display_slice, fit_volume, open_volumes, read_volume
from diffax.data.source import ArraySource, Batch, Item, Source, SourceSpec, Subset, split_source, stack_items
from diffax.data.stacked import StackedSource
from diffax.data.stream import MixtureStream, Stream
from diffax.data.text import join_documents, read_documents, token_chunks
from diffax.data.tfds import open_tfds
from diffax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from diffax.data.torsos import TorsoSource, held_out_torso, torso, torsos
from diffax.data.volume import Volume, canonical, read_nifti, slice_stack

__all__ = [
    "MIXTURES",
    "ArraySource",
    "Augmentation",
    "Batch",
    "Demonstrations",
    "Episodes",
    "Item",
    "Mixture",
    "MixtureStream",
    "Pipeline",
    "Radiograph",
    "SliceSource",
    "Source",
    "SourceSpec",
    "StackedSource",
    "Stream",
    "Subset",
    "Tokenizer",
    "TorsoSource",
    "Volume",
    "Windows",
    "canonical",
    "checkerboard",
    "cifar10",
    "dequantize",
    "digits",
    "display_slice",
    "epoch",
    "fit_square",
    "fit_volume",
    "grid",
    "held_out_torso",
    "horizontal_flip",
    "join_documents",
    "levels_of",
    "load_tokenizer",
    "mnist",
    "open_cubes",
    "open_folder",
    "open_npz",
    "open_parquet",
    "open_source",
    "open_tfds",
    "open_volumes",
    "pipeline",
    "points",
    "random_shift",
    "read_demonstrations",
    "read_dicom",
    "read_documents",
    "read_image",
    "read_nifti",
    "read_radiograph",
    "read_volume",
    "requantize",
    "ring",
    "sample_mixture",
    "slice_stack",
    "split_source",
    "stack_items",
    "standard_library_text",
    "swiss_roll",
    "three_modes",
    "token_chunks",
    "torso",
    "torsos",
    "train_tokenizer",
    "two_moons",
    "undo_square",
    "write_demonstrations",
    "write_lerobot",
]
