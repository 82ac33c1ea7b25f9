"""One door to all sources: a name, a file or a folder."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffax.checks import require, require_one_of
from diffax.data.digits import digits
from diffax.data.folder import open_folder
from diffax.data.npz import open_npz
from diffax.data.parquet import open_parquet, read_parquet
from diffax.data.slices import is_volume, open_volumes
from diffax.data.source import Source
from diffax.data.stacked import StackedSource
from diffax.data.tfds import open_tfds
from diffax.data.torsos import torsos


def mnist(split: str = "train", *, data_dir: str | Path | None = None) -> Source:
    """MNIST from ``data_dir/mnist.npz`` (Keras' layout): (28, 28, 1), 60,000 train and 10,000 test."""
    return open_npz(_local(data_dir, "mnist.npz"), split)


def cifar10(split: str = "train", *, data_dir: str | Path | None = None) -> Source:
    """CIFAR-10 from ``data_dir/cifar10_{train,test}.parquet``: (32, 32, 3), 50,000 and 10,000 images."""
    require_one_of("split", split, ("train", "test", "all"))
    parts = ("train", "test") if split == "all" else (split,)
    return read_parquet([_local(data_dir, f"cifar10_{part}.parquet") for part in parts], num_classes=10)


def stacked_digits(split: str = "train") -> Source:
    """Three of the embedded digits as the channels of an image: (8, 8, 3), 1,000 modes, 60,000 draws."""
    return StackedSource(digits(split), 60_000)


def stacked_mnist(split: str = "train", *, data_dir: str | Path | None = None) -> Source:
    """Three digits of MNIST as the channels of an image, padded: (32, 32, 3), 1,000 modes, 120,000 draws."""
    return StackedSource(mnist(split, data_dir=data_dir), 120_000, pad=2)


_NAMED: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "stacked_digits": stacked_digits,
    "stacked_mnist": stacked_mnist,
    "torsos": torsos,
}


def open_source(name_or_path: str | Path, split: str = "train", **options: Any) -> Source:
    """Open a named source (digits, mnist, cifar10, stacked_*, torsos), ``"tfds:NAME"``, a file or a folder.

    Files are .npz, .parquet, .nii, .nii.gz and DICOM; a folder holds Parquet shards, else volumes, else
    images.

    ``mnist``, ``stacked_mnist`` and ``cifar10`` are read from ``data_dir`` (default: the environment variable
    DIFFAX_DATA). The other options are those of ``open_npz``, ``open_parquet``, ``open_volumes``,
    ``open_folder`` and ``open_tfds``. Raises ``ValueError`` for an unknown name, a missing path or an
    option that the format does not know.
    """
    name = str(name_or_path)
    opener = _opener(name)
    _check_options(name, opener, options)
    if opener in _NAMED.values():
        return opener(split, **options)
    return opener(name.removeprefix("tfds:"), split, **options)


def _opener(name: str) -> Callable[..., Source]:
    if name in _NAMED:
        return _NAMED[name]
    if name.startswith("tfds:"):
        return open_tfds
    path, suffix = Path(name), Path(name).suffix.lower()
    allowed = (
        f"one of {', '.join(_NAMED)}, tfds:NAME, or an existing .npz, .parquet, .nii, .nii.gz, .dcm or folder"
    )
    require(path.exists(), "name_or_path", name, allowed)
    if path.is_dir():
        if any(path.rglob("*.parquet")):
            return open_parquet
        return open_volumes if any(map(is_volume, path.rglob("*"))) else open_folder
    if is_volume(path):
        return open_volumes
    require_one_of(f"type of {name}", suffix, (".npz", ".parquet", ".nii", ".nii.gz", ".dcm"))
    return open_npz if suffix == ".npz" else open_parquet


def _check_options(name: str, opener: Callable[..., Source], options: dict[str, Any]) -> None:
    def keywords(function: Callable[..., Any]) -> set[str]:
        parameters = inspect.signature(function).parameters.values()
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    known = keywords(opener) | (keywords(read_parquet) if opener is open_parquet else set())
    for option in options:
        require(option in known, f"option for {name}", option, ", ".join(sorted(known)) or "no options")


def _local(data_dir: str | Path | None, file: str) -> Path:
    folder = data_dir if data_dir is not None else os.environ.get("DIFFAX_DATA")
    require(folder is not None, "data_dir", None, f"a folder that holds {file} (or set DIFFAX_DATA)")
    path = Path(str(folder)) / file
    require(path.is_file(), "data_dir", str(folder), f"a folder that holds {file}")
    return path
