"""The fields of ``UNet`` and those of a diffusers ``UNet2DModel`` configuration, in both directions.

What has no exact counterpart is refused with a ValueError that names it: resampling inside residual blocks
("resnet"), filtered ("Skip") and cross-attention blocks, Fourier and learned time embeddings, scaled or
missing middle blocks, levels that attend in one half of the network only, channels that are no multiples of
the first level's, and middle attention without a norm (``resnet_time_scale_shift="scale_shift"`` where
``attn_norm_num_groups`` is None).
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from diffax.checks import require
from diffax.models.layers.norm import group_count
from diffax.models.unet import UNet

Config = dict[str, Any]

# Fields that must have one of these values; the first is what a configuration without the field means.
_FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DModel",),
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}
# Fields that we translate, with what a configuration without them means.
_DEFAULTS: Config = {
    "add_attention": True,
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "block_out_channels": (224, 448, 672, 896),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "out_channels": 3,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
_IGNORED = {"sample_size", "num_train_timesteps"}  # neither changes a network of the kinds above


def complete_config(config: Mapping[str, Any]) -> Config:
    """The fields that we translate, defaults filled in; ValueError for others that we cannot represent."""
    for field, allowed in _FIXED.items():
        value = config.get(field, allowed[0])
        require(value in allowed, field, value, " or ".join(map(repr, allowed)))
    private = {field for field in config if field.startswith("_")}
    unknown = set(config) - set(_FIXED) - set(_DEFAULTS) - _IGNORED - private
    require(not unknown, "config", sorted(unknown), "the fields of diffusers' UNet2DModel")
    known = {field: config[field] for field in _DEFAULTS if field in config}
    lists = {field: tuple(value) for field, value in known.items() if isinstance(value, list)}
    return {**_DEFAULTS, **known, **lists}


def unet_of(config: Mapping[str, Any], null_label: bool = False) -> UNet:
    """The network of a configuration; ``null_label``: its last class stands for "no label"."""
    full = complete_config(config)
    channels = full["block_out_channels"]
    known = all(isinstance(c, int) and c > 0 and c % channels[0] == 0 for c in channels)
    require(len(channels) > 0 and known, "block_out_channels", channels, "multiples of the first")
    _check_choices(full)
    classes = full["num_class_embeds"] or 0
    require(classes > 1 or not null_label, "num_class_embeds", classes, "2 or more where null_label is set")
    return UNet(
        channels=channels[0],
        channel_multipliers=tuple(c // channels[0] for c in channels),
        blocks_per_level=full["layers_per_block"],
        attention_levels=_attention_levels(full),
        middle_attention=full["add_attention"],
        head_size=full["attention_head_dim"],
        dropout=float(full["dropout"]),
        num_classes=classes - null_label,
        out_channels=full["out_channels"],
        scale_shift=full["resnet_time_scale_shift"] == "scale_shift",
        time_scale=1.0,
        time_shift=float(full["freq_shift"]),
        norm_groups=full["norm_num_groups"],
        norm_epsilon=float(full["norm_eps"]),
        symmetric_downsample=full["downsample_padding"] == 1,
    )


def config_of(model: UNet, arrays: Mapping[str, np.ndarray], sine_first: bool) -> Config:
    """The configuration of a network whose parameters have these names and shapes, but for its classes."""
    stem, head = arrays["stem/kernel"].shape, arrays["out_conv/kernel"].shape
    attends = model.attention_levels or (False,) * len(model.channel_multipliers)
    groups = _common_groups(model, arrays)
    return {
        **{field: allowed[0] for field, allowed in _FIXED.items()},
        "add_attention": model.middle_attention,
        "attention_head_dim": _common_head_size(model, arrays),
        "attn_norm_num_groups": groups if model.scale_shift else None,
        "block_out_channels": [model.channels * multiplier for multiplier in model.channel_multipliers],
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "downsample_padding": int(model.symmetric_downsample),
        "dropout": model.dropout,
        "flip_sin_to_cos": not sine_first,
        "freq_shift": model.time_shift,
        "in_channels": stem[2],
        "layers_per_block": model.blocks_per_level,
        "norm_eps": model.norm_epsilon,
        "norm_num_groups": groups,
        "num_class_embeds": None,
        "out_channels": head[3],
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift else "default",
        "time_embedding_dim": None,
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
    }


def _check_choices(full: Config) -> None:
    """Raise ValueError for values of translated fields that have no counterpart."""
    groups, embedding = full["norm_num_groups"], 4 * full["block_out_channels"][0]
    require(full["downsample_padding"] in (0, 1), "downsample_padding", full["downsample_padding"], "0 or 1")
    require(isinstance(groups, int) and groups > 0, "norm_num_groups", groups, "a positive integer")
    shift = full["resnet_time_scale_shift"]
    known = ("default", "scale_shift")
    require(shift in known, "resnet_time_scale_shift", shift, " or ".join(map(repr, known)))
    attention_groups = full["attn_norm_num_groups"]
    same = attention_groups == groups or (attention_groups is None and shift == "default")
    allowed = f"norm_num_groups = {groups}" + (" or None" if shift == "default" else "")
    require(same or not full["add_attention"], "attn_norm_num_groups", attention_groups, allowed)
    width = full["time_embedding_dim"]
    require(width in (None, embedding), "time_embedding_dim", width, f"None or 4 * channels = {embedding}")


def _attention_levels(full: Config) -> tuple[bool, ...]:
    """Which levels attend: the same ones on the way down and up."""
    marks = {}
    for way, reverse in (("down", False), ("up", True)):
        types = full[f"{way}_block_types"]
        names = {f"{way.capitalize()}Block2D": False, f"Attn{way.capitalize()}Block2D": True}
        fits = len(types) == len(full["block_out_channels"]) and all(kind in names for kind in types)
        require(fits, f"{way}_block_types", types, " or ".join(names) + " for each of block_out_channels")
        found = tuple(names[kind] for kind in types)
        marks[way] = found[::-1] if reverse else found
    require(
        marks["down"] == marks["up"], "up_block_types", full["up_block_types"], "down_block_types in reverse"
    )
    size = full["attention_head_dim"]
    widths = [c for c, here in zip(full["block_out_channels"], marks["down"], strict=True) if here]
    widths += full["block_out_channels"][-1:] if full["add_attention"] else []
    fits = size is None or (size > 0 and all(width % size == 0 for width in widths))
    require(fits, "attention_head_dim", size, f"None or a divisor of {sorted(set(widths))}")
    return marks["down"] if any(marks["down"]) else ()


def check_exportable(model: UNet) -> None:
    """Raise ValueError for options that UNet2DModel has not."""
    require(type(model) is UNet, "model", type(model).__name__, "UNet")
    allowed: Config = {
        "patch_size": 1,
        "resample": "conv",
        "rescale_skip": False,
        "time_embedding": "sinusoidal",
    }
    for field, value in allowed.items():
        require(getattr(model, field) == value, field, getattr(model, field), repr(value))
    rule = "1.0: clone the model with it, and give the time scaled by 1000 instead"
    require(model.time_scale == 1.0, "time_scale", model.time_scale, rule)


def _common_groups(model: UNet, arrays: Mapping[str, np.ndarray]) -> int:
    """The number of groups of all norms."""
    widths = {value.shape[0] for name, value in arrays.items() if name.endswith("/scale")}
    counts = {model.norm_groups or group_count(width) for width in widths}
    return _only(counts, "norm_groups", model.norm_groups, "one that fits all norms")


def _common_head_size(model: UNet, arrays: Mapping[str, np.ndarray]) -> int | None:
    """The size of all attention heads; None for one head at every level."""
    widths = {value.shape[0] for name, value in arrays.items() if name.endswith("attention/norm/scale")}
    if model.head_size is not None or model.heads == 1 or not widths:
        return model.head_size
    return _only({width // model.heads for width in widths}, "heads", model.heads, "1, or heads of one size")


def _only(values: Collection[int], field: str, given: Any, allowed: str) -> int:
    require(len(values) == 1, field, given, f"{allowed} (here they differ: {sorted(values)})")
    return next(iter(values))
