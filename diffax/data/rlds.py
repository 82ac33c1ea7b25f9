"""RLDS: episodes that TensorFlow Datasets prepared, with nested ``steps``, read without TensorFlow.

Builders in array_record and in tfrecord, the default, are read; riegeli and parquet are not. Nothing is
prepared or downloaded here. The checksums of tfrecord files are not looked at, their lengths are.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.data.demonstrations import Demonstrations, Field, Recording, as_rows, assemble, choose_fields
from diffax.data.optional import optional_import

_SENTENCES = ("language_instruction", "natural_language_instruction")


def read_rlds(path: Path, fields: Sequence[str] = (), action: str = "") -> Demonstrations:
    """A prepared version folder as :func:`diffax.data.read_demonstrations` says.

    All splits are read, one after the other. Fields are those of ``steps/observation``, nested names with
    slashes; ``action`` is a name within ``steps``, "action" by default ("action/rotation" of nested ones).
    Tasks are the first language instruction found in an episode, else the data set's name. All steps are
    kept, also a last one whose action was never taken; sequences within a step are not read.
    """
    tfds = optional_import("tensorflow_datasets", "tfds")
    parser = optional_import("tensorflow_datasets.core.example_parser", "tfds")
    try:
        builder = tfds.builder_from_directory(str(path))
        features = builder.info.features
        parse = parser.ExampleParserNp(features.get_serialized_info()).parse_example
    except Exception as error:  # TFDS has many, none of its own
        raise ValueError(f"{path}: got {error!s}, allowed: a folder that TFDS prepared") from error
    leaves = _flatten(features, "")
    action = f"steps/{action or 'action'}"
    held = {name: field for name, leaf in leaves.items() if (field := _declared(leaf))}
    require(action in held, f"{path}: features", sorted(leaves), f"an array of numbers {action!r}")
    prefix = "steps/observation/"
    seen = {name.removeprefix(prefix): field for name, field in held.items() if name.startswith(prefix)}
    chosen = {"action": action}
    chosen |= {name: prefix + name for name in choose_fields(f"{path}: {prefix[:-1]}", seen, fields)}
    recordings: list[Recording] = []
    splits = {}
    for split in builder.info.splits:
        first = len(recordings)
        for number, record in enumerate(_records(builder, path, split)):
            where = f"{path}: {split}[{number}]"
            recordings.append(_recording(where, record, parse, leaves, chosen, builder.info.name))
        splits[split] = list(range(first, len(recordings)))
    require(bool(recordings), f"{path}: episodes", 0, "one or more")
    return assemble(recordings, {"format": "rlds", "source": str(path), "splits": splits})


def _flatten(features: Any, prefix: str) -> dict[str, Any]:
    """The features that hold no others, by their path; ``steps`` is a data set of a dict of features."""
    kinds = optional_import("tensorflow_datasets", "tfds").features
    if isinstance(features, kinds.Dataset):
        return _flatten(features.feature, prefix)
    if not isinstance(features, kinds.FeaturesDict):
        return {prefix[:-1]: features}
    nested = (_flatten(feature, f"{prefix}{name}/") for name, feature in features.items())
    return {name: leaf for leaves in nested for name, leaf in leaves.items()}


def _declared(leaf: Any) -> Field | None:
    """Shape and type of a feature of numbers with a fixed shape, or of an image, of whatever size."""
    told = leaf.get_tensor_info()
    if isinstance(told, Mapping) or np.dtype(told.np_dtype).kind not in "fiub":
        return None
    fixed = None not in told.shape or type(leaf).__name__ == "Image"
    return Field(tuple(size or 0 for size in told.shape), np.dtype(told.np_dtype)) if fixed else None


def _records(builder: Any, path: Path, split: str) -> Iterator[bytes]:
    """The serialised episodes of a split, whose number is checked."""
    told, kind = builder.info.splits[split], getattr(builder.info.file_format, "value", None)
    require(kind in ("array_record", "tfrecord"), f"{path}: file_format", kind, "array_record or tfrecord")
    count = 0
    for file in told.filepaths:
        require(Path(file).is_file(), f"{path}: split {split!r}", f"no {Path(file).name}", "all of its files")
        for record in _array_records(Path(file)) if kind == "array_record" else _tf_records(Path(file)):
            count += 1
            yield record
    require(count == told.num_examples, f"{path}: split {split!r}: episodes", count, str(told.num_examples))


def _array_records(file: Path) -> Iterator[bytes]:
    module = optional_import("array_record.python.array_record_module", "tfds")
    try:
        reader = module.ArrayRecordReader(str(file))
        records = reader.read_all()
    except Exception as error:  # of absl's status, by pybind
        raise ValueError(f"{file}: got {error!s}, allowed: a whole array_record file") from error
    yield from records


def _tf_records(file: Path) -> Iterator[bytes]:
    """Records lie as: length, 8 bytes, its checksum, 4, the content, its checksum, 4."""
    size, allowed = file.stat().st_size, "whole tfrecords"
    with file.open("rb") as stream:
        while head := stream.read(12):
            require(len(head) == 12, f"{file}: byte {stream.tell()}", "the end of the file", allowed)
            end = stream.tell() + struct.unpack("<Q", head[:8])[0] + 4
            require(end <= size, f"{file}: byte {stream.tell()}", f"a record up to byte {end}", allowed)
            yield stream.read(end - stream.tell())[:-4]


def _recording(
    where: str, record: bytes, parse: Any, leaves: Mapping[str, Any], chosen: Mapping[str, str], task: str
) -> Recording:
    """One episode: only the fields that are wanted are decoded."""
    try:
        example = parse(record)
        steps = {
            name: np.stack([np.asarray(leaves[key].decode_example_np(v)) for v in _follow(example, key)])
            for name, key in chosen.items()
        }
    except Exception as error:  # protocol buffers, TFDS and pillow have their own
        raise ValueError(f"{where}: got {error!s}, allowed: a whole episode of one step or more") from error
    sentence = next(
        (_first_text(_follow(example, key)) for key in leaves if key.split("/")[-1] in _SENTENCES), ""
    )
    return Recording(where, {k: as_rows(f"{where}: {k}", v) for k, v in steps.items()}, sentence or task)


def _follow(example: Any, key: str) -> Any:
    for name in key.split("/"):
        example = example[name]
    return example


def _first_text(values: Any) -> str:
    """Of an episode, or of its first step."""
    first = np.asarray(values, object).reshape(-1)[0]
    return first.decode() if isinstance(first, bytes) else ""
