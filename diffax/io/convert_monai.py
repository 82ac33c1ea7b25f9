"""Networks of MONAI (``DiffusionModelUNet``, over images and volumes) as ours.

    model, params = load_monai("unet.safetensors", "unet.json")
    apply = lambda p, x, time, cond: model.apply({"params": p}, x, time, cond)
    denoise = monai_process({"_target_": "DDPMScheduler"}).denoiser(apply, params)

The JSON file holds the arguments that made the network, the other ``model.state_dict()``: in MONAI
``safetensors.torch.save_file(model.state_dict(), "unet.safetensors")``. Images are (b, h, w, c) here and
(b, c, h, w) there, volumes likewise; like theirs the network takes integer steps. Names of the package
``generative``, from which MONAI took these networks, are known too.

Refused with a ValueError: cross-attention (``with_conditioning``), levels of different ``num_res_blocks``,
heads of different sizes, channels that are no multiples of the first level's, ControlNets and other networks.
What is theirs and not ours becomes the identity: the skip connections of residual blocks that resample
(``resblock_updown``) and the last map of attention (``include_fc=False``); exact where matrix products are
done in float32. ``upcast_attention``, ``use_flash_attention`` and ``dropout_cattn`` change no result.

Their label is needed, ours may be missing: see :mod:`diffax.io.convert`, and ``null_label`` there.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.io.convert_weights import QKV, Names, Tensors, import_params
from diffax.io.weights import read_tensors
from diffax.models.unet import UNet, UNet3D
from diffax.types import Params

Config = dict[str, Any]

_NEEDED = ("spatial_dims", "in_channels", "out_channels")
_DEFAULTS: Config = {
    "num_res_blocks": (2, 2, 2, 2),
    "channels": (32, 64, 64, 64),
    "attention_levels": (False, False, True, True),
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "resblock_updown": False,
    "num_head_channels": 8,
    "num_class_embeds": None,
    "include_fc": True,
    "use_combined_linear": False,
}
_FIXED: Config = {"with_conditioning": False, "cross_attention_dim": None}
_IGNORED = {"transformer_num_layers", "upcast_attention", "dropout_cattn", "use_flash_attention"}
_NAMES = Names(
    ends={
        "stem": "conv_in.conv",
        "out_norm": "out.0",
        "out_conv": "out.2.conv",
        "condition/time_in": "time_embed.0",
        "condition/time_out": "time_embed.2",
        "condition/label": "class_embedding",
    },
    places={
        "block": "{way}_blocks.{number}.resnets.{index}",
        "attention": "{way}_blocks.{number}.attentions.{index}",
        "middle_block": "middle_block.resnet_{next}",
        "middle_attention": "middle_block.attention",
        "down": "down_blocks.{number}.downsampler.op.conv",
        "up": "up_blocks.{number}.upsampler.postconv.conv",
    },
    parts={
        "": "",
        "norm_in": ".norm1",
        "conv_in": ".conv1.conv",
        "embedding": ".time_emb_proj",
        "norm_out": ".norm2",
        "conv_out": ".conv2.conv",
        "skip": ".skip_connection.conv",
        "norm": ".norm",
        "attention/qkv": ".attn",
        "attention/out": ".attn.out_proj",
    },
)
_BLOCKS_RESAMPLE = {"down": "down_blocks.{number}.downsampler", "up": "up_blocks.{number}.upsampler"}
# Names of the package "generative", and what MONAI made of them.
_FORMER = (
    (r"(attentions\.\d+|attention)\.(to_[qkv])\.", r"\1.attn.\2."),
    (r"(attentions\.\d+|attention)\.proj_attn\.", r"\1.attn.out_proj."),
    (r"\.upsampler\.conv\.conv\.", ".upsampler.postconv.conv."),
)


def from_monai(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], *, null_label: bool = False
) -> tuple[UNet, Params]:
    """Our ``UNet`` (``spatial_dims=2``) or ``UNet3D`` (3), and its parameters, for a ``DiffusionModelUNet``.

    Args:
      config: the keyword arguments that made it; absent ones have MONAI's defaults. ``_target_`` may name it.
      weights: its state dict as float arrays, of MONAI 1.4 or later.
      null_label: the last of its classes stands for "no label".

    Raises:
      ValueError: for an argument that has no exact counterpart here, or weights that are missing, unexpected
        or of another shape.
    """
    full = _complete(config)
    model = _model_of(full, null_label)
    places = {**_NAMES.places, **(_BLOCKS_RESAMPLE if full["resblock_updown"] else {})}
    parts = {**_NAMES.parts, **({} if full["include_fc"] else {"attention/out": None})}
    names = _NAMES._replace(places=places, parts=parts)
    found = _present(weights, full)
    return model, import_params(model, full["in_channels"], found, names, null_label=null_label)


def load_monai(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    null_label: bool = False,
) -> tuple[UNet, Params]:
    """Read a state dict (``.safetensors``, or ``.npz`` of its arrays) and arguments (a mapping or JSON file).

    Raises ValueError as :func:`from_monai`, and for files that are missing, damaged or of another kind.
    """
    arguments = config if isinstance(config, Mapping) else _read_json(Path(config))
    return from_monai(arguments, _read_arrays(Path(path)), null_label=null_label)


def _read_json(path: Path) -> Config:
    require(path.is_file(), "config", str(path), "a JSON file of the network's arguments")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: got {error}, allowed: JSON") from error
    require(isinstance(found, dict), path.name, type(found).__name__, "an object")
    return found


def _read_arrays(path: Path) -> Tensors:
    """The arrays of a file; pickles are not read, for they may run code."""
    kinds = (".safetensors", ".npz")
    require(path.suffix in kinds, "path", str(path), f"a state dict saved as {' or '.join(kinds)}")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    require(path.is_file(), "path", str(path), "an existing .npz file")
    try:
        with np.load(path, allow_pickle=False) as stream:
            return {name: stream[name] for name in stream.files}
    except Exception as error:  # zip, zlib and numpy each have their own
        raise ValueError(f"path: got {path} ({error}), allowed: a whole .npz file of arrays") from error


def _complete(config: Mapping[str, Any]) -> Config:
    """All arguments that we translate, of the right kinds."""
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}
    target = given.pop("_target_", "DiffusionModelUNet")
    known = isinstance(target, str) and target.rpartition(".")[2] == "DiffusionModelUNet"
    require(known, "_target_", target, "DiffusionModelUNet")
    for field, value in _FIXED.items():
        require(given.pop(field, value) == value, field, config.get(field), repr(value))
    missing = [field for field in _NEEDED if field not in given]
    require(not missing, "config", f"no {missing}", "all of " + ", ".join(_NEEDED))
    unknown = sorted(given.keys() - _DEFAULTS.keys() - set(_NEEDED) - _IGNORED)
    require(not unknown, "config", unknown, "the arguments of DiffusionModelUNet")
    full = {**_DEFAULTS, **given}
    require(full["spatial_dims"] in (2, 3), "spatial_dims", full["spatial_dims"], "2 or 3")
    for field in ("in_channels", "out_channels", "norm_num_groups"):
        require(_positive(full[field]), field, full[field], "a positive integer")
    channels, classes = full["channels"], full["num_class_embeds"]
    known = isinstance(channels, tuple) and len(channels) > 0 and all(_positive(c) for c in channels)
    known = known and all(c % channels[0] == 0 and c % full["norm_num_groups"] == 0 for c in channels)
    require(known, "channels", channels, "multiples of the first and of norm_num_groups")
    require(classes is None or _positive(classes), "num_class_embeds", classes, "None or a positive integer")
    return full


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _each_level(full: Config, field: str) -> tuple[Any, ...]:
    """One value a level, of a field that may be a single one."""
    levels, value = len(full["channels"]), full[field]
    values = value if isinstance(value, tuple) else (value,) * levels
    require(len(values) == levels, field, value, f"{levels} values, one for each of channels")
    return values


def _model_of(full: Config, null_label: bool) -> UNet:
    attends = _each_level(full, "attention_levels")
    require(all(isinstance(mark, bool) for mark in attends), "attention_levels", attends, "booleans")
    blocks, channels = _each_level(full, "num_res_blocks"), full["channels"]
    same = _positive(blocks[0]) and len(set(blocks)) == 1
    require(same, "num_res_blocks", blocks, "the same positive number at every level")
    classes = full["num_class_embeds"] or 0
    require(classes > 1 or not null_label, "num_class_embeds", classes, "2 or more where null_label is set")
    return (UNet if full["spatial_dims"] == 2 else UNet3D)(
        channels=channels[0],
        channel_multipliers=tuple(c // channels[0] for c in channels),
        blocks_per_level=blocks[0],
        attention_levels=attends if any(attends) else (),
        head_size=_head_size(full, attends),
        num_classes=classes - null_label,
        out_channels=full["out_channels"],
        resample="pool" if full["resblock_updown"] else "conv",
        time_scale=1.0,
        norm_groups=full["norm_num_groups"],
        norm_epsilon=float(full["norm_eps"]),
        symmetric_downsample=True,
    )


def _head_size(full: Config, attends: tuple[bool, ...]) -> int:
    """Channels of every head: of the levels that attend, and of the middle, which has the last level's."""
    sizes = _each_level(full, "num_head_channels")
    used = {(size, c) for size, c, here in zip(sizes, full["channels"], attends, strict=True) if here}
    used.add((sizes[-1], full["channels"][-1]))
    fits = all(_positive(size) and c % size == 0 for size, c in used) and len({size for size, _ in used}) == 1
    rule = "one divisor of the channels, the same wherever there is attention (the middle has the last)"
    require(fits, "num_head_channels", full["num_head_channels"], rule)
    return sizes[-1]


def _present(weights: Mapping[str, np.ndarray], full: Config) -> Tensors:
    """The weights under MONAI's present names, with a map each for queries, keys and values."""
    found: Tensors = {}
    for name, value in weights.items():
        for old, new in _FORMER:
            name = re.sub(old, new, name)
        require(name not in found, "weights", name, "one name for each array")
        owner, _, leaf = name.rpartition(".")
        if full["use_combined_linear"] and owner.endswith(".attn.qkv") and len(value) % 3 == 0:
            thirds = zip(QKV, np.split(value, 3), strict=True)
            found |= {f"{owner.removesuffix('.qkv')}.{part}.{leaf}": third for part, third in thirds}
        # MONAI 1.4 has a last map that it does not use.
        elif full["include_fc"] or not owner.endswith(".attn.out_proj"):
            found[name] = value
    return found
