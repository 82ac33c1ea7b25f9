"""Networks of the PyTorch library diffusers (``UNet2DModel``) as ours, and ours as theirs.

    model, params = load_diffusers("ddpm-cifar10-32")                       # config.json, *.safetensors
    process = FromTable(tables.linear(1000))
    apply = lambda p, x, time, cond: model.apply({"params": p}, x, time, cond)
    denoise = bind(apply, params, process=process, output="eps", time_input="step")
    save_diffusers("mine", model, params, sample_size=32)

An imported network has ``time_scale=1``: like theirs it takes integer steps, those of the scheduler's table;
``time_input="step"`` of :func:`diffax.bind` computes them from the time of a ``FromTable``. Images are
(b, h, w, c) here and (b, c, h, w) there. Arrays are moved, never computed, so a way there and back gives the
same bits. What cannot be represented exactly raises ValueError (:mod:`diffax.io.convert_config`); other
models than ``UNet2DModel`` are not converted.

Labels: theirs always need one, ours have a last row for "no label". An imported table gets a zero row there,
which no training has seen: without a label the network runs on the time alone. Where their last class was
trained to mean "no label", import with ``null_label=True``. Exported tables keep our last row as one more
class, unless it is zero.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.io.convert_config import check_exportable, complete_config, config_of, unet_of
from diffax.io.convert_weights import (
    LABELS,
    Layout,
    Names,
    Tensors,
    check_same,
    import_params,
    parameter_shapes,
    to_theirs,
)
from diffax.io.files import write_json
from diffax.io.weights import flatten_params, read_tensors, write_tensors
from diffax.models.unet import UNet
from diffax.types import Params

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_NAMES = Names(
    ends={
        "stem": "conv_in",
        "out_norm": "conv_norm_out",
        "out_conv": "conv_out",
        "condition/time_in": "time_embedding.linear_1",
        "condition/time_out": "time_embedding.linear_2",
        "condition/label": "class_embedding",
    },
    places={
        "block": "{way}_blocks.{number}.resnets.{index}",
        "attention": "{way}_blocks.{number}.attentions.{index}",
        "middle_block": "mid_block.resnets.{index}",
        "middle_attention": "mid_block.attentions.{index}",
        "down": "down_blocks.{number}.downsamplers.0.conv",
        "up": "up_blocks.{number}.upsamplers.0.conv",
    },
    parts={
        "": "",
        "norm_in": ".norm1",
        "conv_in": ".conv1",
        "embedding": ".time_emb_proj",
        "norm_out/modulation": ".time_emb_proj",
        "norm_out": ".norm2",
        "conv_out": ".conv2",
        "skip": ".conv_shortcut",
        "norm": ".group_norm",
        "attention/qkv": "",
        "attention/out": ".to_out.0",
    },
    former={"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
)


def from_diffusers(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], *, null_label: bool = False
) -> tuple[UNet, Params]:
    """Our network, and its parameters as numpy arrays, for a ``UNet2DModel``.

    Args:
      config: as in its ``config.json``; absent fields have that library's defaults.
      weights: its state dict as float arrays; present and older names of the attention maps are known.
      null_label: the last of its classes stands for "no label".

    Raises:
      ValueError: for a field that has no exact counterpart here, or weights that are missing, unexpected
        or of another shape.
    """
    model = unet_of(config, null_label)
    full = complete_config(config)
    options = {"sine_first": not full["flip_sin_to_cos"], "null_label": null_label}
    return model, import_params(model, full["in_channels"], weights, _NAMES, **options)


def to_diffusers(
    model: UNet, params: Params, *, sample_size: int | tuple[int, int], sine_first: bool = False
) -> tuple[dict[str, Any], Tensors]:
    """Configuration and state dict of the ``UNet2DModel`` that computes what ``model`` does.

    ``sample_size``: height and width of its images, or one number for both. ``sine_first``: in the order of
    time features that ``flip_sin_to_cos=False`` means, as the networks of Ho et al. have it. ``dtype`` and
    ``remat`` are no part of the result.

    Raises ValueError for a field that has no exact counterpart there, or parameters of another network.
    """
    check_exportable(model)
    arrays = flatten_params(params)
    require("stem/kernel" in arrays, "params", sorted(arrays)[:3], "the parameters of a UNet")
    check_same(arrays, parameter_shapes(model, arrays["stem/kernel"].shape[-2]), "params")
    sizes = sample_size if isinstance(sample_size, tuple) else (sample_size, sample_size)
    factor = 2 ** (len(model.channel_multipliers) - 1)
    fits = all(size > 0 and size % factor == 0 for size in sizes)
    require(fits, "sample_size", sample_size, f"multiples of {factor}")
    config = config_of(model, arrays, sine_first)
    if LABELS in arrays:
        table = arrays[LABELS]
        arrays[LABELS] = table if np.any(table[-1]) else table[:-1]
        config["num_class_embeds"] = len(arrays[LABELS])
    config["sample_size"] = list(sizes) if isinstance(sample_size, tuple) else sample_size
    theirs = to_theirs(arrays, Layout.of(_NAMES, model, sine_first))
    return config, {name: np.ascontiguousarray(value) for name, value in theirs.items()}


def load_diffusers(folder: str | os.PathLike[str], *, null_label: bool = False) -> tuple[UNet, Params]:
    """Read a folder, or its ``unet``, of ``config.json`` and ``diffusion_pytorch_model.safetensors``.

    Raises ValueError as :func:`from_diffusers`, and for files that are missing or damaged.
    """
    path = Path(folder)
    if not (path / "config.json").exists():
        path = path / "unet"
    names = f"config.json and {_WEIGHTS}, in it or in its 'unet'"
    found = (path / "config.json").is_file() and (path / _WEIGHTS).is_file()
    require(found, "folder", str(folder), f"one with {names}")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"config.json: got {error}, allowed: JSON") from error
    require(isinstance(config, dict), "config.json", type(config).__name__, "an object")
    return from_diffusers(config, read_tensors(path / _WEIGHTS)[0], null_label=null_label)


def save_diffusers(
    folder: str | os.PathLike[str],
    model: UNet,
    params: Params,
    *,
    sample_size: int | tuple[int, int],
    sine_first: bool = False,
) -> None:
    """Write the folder that ``UNet2DModel.from_pretrained(folder)`` reads; see :func:`to_diffusers`."""
    config, weights = to_diffusers(model, params, sample_size=sample_size, sine_first=sine_first)
    write_tensors(Path(folder) / _WEIGHTS, weights, {"format": "pt"})
    write_json(Path(folder) / "config.json", config)
