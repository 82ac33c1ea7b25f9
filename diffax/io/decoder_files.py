"""Llama and OPT checkpoints in the layout of Hugging Face: a folder with config.json and safetensors.

    config, params = read_decoder("TinyStories-656K")
    logits = DecoderLM(config).apply({"params": params}, tokens)

:class:`DecoderFiles` reads a layer at a time, for models that are larger than memory.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from diffax.checks import require, require_one_of
from diffax.io import decoder_layout as layout
from diffax.io.decoder_config import COMPACT, parse_config, read_fields
from diffax.io.decoder_layout import Stored
from diffax.io.weights import TensorFile
from diffax.models.decoder_lm import DecoderConfig
from diffax.types import Params

INDEX = "model.safetensors.index.json"
_TYPES = ("float32", "float16", "bfloat16", "float64")


def read_decoder(folder: str | Path) -> tuple[DecoderConfig, Params]:
    """Configuration and parameters, as stored: arrays keep their types. Raises as :class:`DecoderFiles`."""
    files = DecoderFiles(folder)
    return files.config, files.params()


class DecoderFiles:
    """A checkpoint: ``config``, and parameters that are read when asked for.

    Raises ValueError naming the file and the field or tensor that is missing, left over, of another shape
    than the configuration says, damaged, or (when read) not finite; and for other families of models.
    ``fields`` is the content of config.json.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.fields = read_fields(self.folder)
        config = parse_config(self.fields, str(self.folder / "config.json"))
        self._files = _open(self.folder)
        self.config = self._with_pairs(config).check()
        self._check_names()

    @property
    def parameters(self) -> int:
        """How many numbers its tensors hold."""
        config = self.config
        layers = (one for number in range(len(config.layers)) for one in layout.layer(config, number))
        return sum(math.prod(one.shape) for one in [*layout.ends(config), *layers])

    def params(self) -> Params:
        """All of them."""
        layers = {f"layers_{number}": self.layer(number) for number in range(len(self.config.layers))}
        return {**self.ends(), **layers}

    def ends(self) -> Params:
        """All but the layers."""
        params = self._tree(layout.ends(self.config))
        if self.config.tied and self._second_table():
            same = np.array_equal(self._read(layout.HEAD), params["embed"])
            allowed = "the embedding, with tie_word_embeddings"
            require(same, f"{self.folder}: {layout.HEAD}", "another matrix", allowed)
        return params

    def layer(self, number: int) -> Params:
        """Those of one layer."""
        return self._tree(layout.layer(self.config, number))

    def _tree(self, stored: Sequence[Stored]) -> dict[str, Any]:
        found = {one.path: self._read(self._place(one)) for one in stored}
        turned = {one.path: found[one.path].T if one.turned else found[one.path] for one in stored}
        return traverse_util.unflatten_dict(turned)

    def _read(self, name: str) -> np.ndarray:
        value = self._files[name].read(name)
        require(
            value.dtype.kind == "i" or bool(np.isfinite(value).all()),
            f"{self.folder}: {name}",
            "NaN or infinity",
            "finite numbers",
        )
        return value

    def _place(self, one: Stored) -> str:
        """The name that a tensor has here: a tied table may stand under the head's."""
        tied = self.config.tied and one.path == ("embed",) and one.name not in self._files
        return layout.HEAD if tied else one.name

    def _second_table(self) -> bool:
        return layout.HEAD in self._files and layout.embedding_name(self.config) in self._files

    def _with_pairs(self, config: DecoderConfig) -> DecoderConfig:
        if not str(self.fields["model_type"]).startswith(COMPACT) or config.family != "llama":
            return config
        layers = list(config.layers)
        for number, layer in enumerate(layers):
            name = layout.pairs_name(config, number)
            if name in self._files:
                rows = self._read(name).tolist()
                layers[number] = layer._replace(pairs=tuple(tuple(row) for row in rows))
        return replace(config, layers=tuple(layers))

    def _check_names(self) -> None:
        """Every tensor of the configuration is there, as it says, and none else."""
        config, where = self.config, str(self.folder)
        numbers = range(len(config.layers))
        left = {name for name in self._files if not name.endswith("rotary_emb.inv_freq")}
        left -= {layout.pairs_name(config, number) for number in numbers if config.layers[number].pairs}
        left -= {layout.HEAD} if config.tied and self._second_table() else set()
        for one in [*layout.ends(config), *(one for n in numbers for one in layout.layer(config, n))]:
            name = self._place(one)
            require(name in left, f"{where}: {name}", "no such tensor", "one of " + str(one.shape))
            shape, kind = self._files[name].about(name)
            require(shape == one.shape, f"{where}: {name}: shape", shape, str(one.shape))
            require_one_of(f"{where}: {name}: type", kind, _TYPES)
            left.remove(name)
        require(not left, f"{where}: tensors left over", sorted(left)[:3], "those of the configuration alone")


def _open(folder: Path) -> dict[str, TensorFile]:
    """The file that each tensor is in: ``model.safetensors``, or those that its index names."""
    index = folder / INDEX
    if not index.is_file():
        file = TensorFile(folder / "model.safetensors")
        return dict.fromkeys(file.names, file)
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{index}: got {error!r}, allowed: JSON with a weight_map") from error
    found: dict[str, TensorFile] = {}
    for name in sorted(set(places.values())):
        require((folder / name).is_file(), f"{index}: {name}", "no such file", "all that it names")
        file = TensorFile(folder / name)
        found |= dict.fromkeys(file.names, file)
    missing = sorted(set(places) - set(found))
    require(not missing, f"{index}: tensors", missing[:3], "those in the files that it names")
    return found
