"""Networks of the EDM code base (``SongUNet`` as DDPM++, ``DhariwalUNet`` as ADM) as ours; one way.

    model, params = from_edm(config, weights)
    denoise = bind(apply, params, process=EDM(), output="F", sigma_data=0.5, time_input="c_noise")

Layouts: Karras et al. 2022 (arXiv:2206.00364), appendix F.2. Not supported, and refused with a ValueError:
class-conditional SongUNets (their labels enter before the perceptron of the time, ours after it), NCSN++
(Fourier frequencies that are weights, residual and skip pyramids, filters other than (1, 1)), embeddings of
another width than four times the channels, and an ADM whose first level multiplies the channels.

The resampling blocks of ADM have no convolution in the skip connection, ours have: it is imported as the
identity, which is exact where matrix products are done in float32. The maps of augmentation labels are used
in training alone, and left out. Without a label an ADM adds nothing: the row for "no label" is zero, as it is
there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from diffax.checks import require, require_one_of
from diffax.io.convert_weights import (
    Tensors,
    check_exact,
    check_same,
    from_torch,
    identity,
    parameter_shapes,
    place_of,
)
from diffax.models.ncsnpp import NCSNpp
from diffax.models.unet import UNet
from diffax.types import Params

_COMMON: dict[str, Any] = {
    "label_dim": 0,
    "augment_dim": 0,
    "channel_mult_emb": 4,
    "label_dropout": 0,
    "dropout": 0.1,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        **_COMMON,
        "model_channels": 128,
        "channel_mult": (1, 2, 2, 2),
        "num_blocks": 4,
        "attn_resolutions": (16,),
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": (1, 1),
    },
    "DhariwalUNet": {
        **_COMMON,
        "model_channels": 192,
        "channel_mult": (1, 2, 3, 4),
        "num_blocks": 3,
        "attn_resolutions": (32, 16, 8),
    },
}
_ONLY: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "label_dim": 0,
        "channel_mult_emb": 4,
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": (1, 1),
    },
    "DhariwalUNet": {"channel_mult_emb": 4},
}
_NEEDED = ("model_type", "img_resolution", "in_channels", "out_channels")
_PARTS = {
    "norm_in": "norm0",
    "conv_in": "conv0",
    "embedding": "affine",
    "norm_out/modulation": "affine",
    "norm_out": "norm1",
    "conv_out": "conv1",
    "skip": "skip",
    "norm": "norm2",
    "attention/qkv": "qkv",
    "attention/out": "proj",
}


def from_edm(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[UNet, Params]:
    """Our network, and its parameters as numpy arrays.

    Args:
      config: the arguments that made the network, and ``model_type``, "SongUNet" or "DhariwalUNet".
      weights: its state dict as float arrays; a leading "model." (that of the preconditioning) is dropped.

    Raises:
      ValueError: for a network that ours cannot represent exactly, or weights that are missing, unexpected
        or of another shape.
    """
    full = _complete(config)
    model = _model_of(full)
    found = {name.removeprefix("model."): value for name, value in weights.items()}
    for name in [name for name in found if name.endswith(".resample_filter")]:
        taps = np.asarray(found.pop(name))
        require(taps.shape == (1, 1, 2, 2) and bool(np.all(taps == 0.25)), name, taps.tolist(), "a 2x2 mean")
    shapes = parameter_shapes(model, full["in_channels"])
    names = {name: _their_name(name, full) for name in shapes}
    wanted = {theirs: _their_shape(shapes[name], theirs) for name, theirs in names.items() if theirs}
    if full["augment_dim"]:
        shape = (full["model_channels"], full["augment_dim"])
        wanted["map_augment.weight"] = np.broadcast_to(np.float32(0), shape)
    check_same(found, wanted, "weights")
    check_exact(found)
    arrays = {name: _to_ours(shapes[name], names[name], found, model) for name in shapes}
    return model, traverse_util.unflatten_dict(arrays, sep="/")


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """All fields, checked."""
    missing = [field for field in _NEEDED if field not in config]
    require(not missing, "config", f"no {missing}", "all of " + ", ".join(_NEEDED))
    kind = config["model_type"]
    require_one_of("model_type", kind, _DEFAULTS)
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in config.items()}
    unknown = sorted(given.keys() - _DEFAULTS[kind].keys() - set(_NEEDED))
    require(not unknown, "config", unknown, f"the arguments of {kind}")
    full = {**_DEFAULTS[kind], **given}
    for field, value in _ONLY[kind].items():
        require(full[field] == value, field, full[field], repr(value))
    first = full["channel_mult"][0]
    require(kind == "SongUNet" or first == 1, "channel_mult", full["channel_mult"], "1 at the first level")
    return full


def _model_of(full: Mapping[str, Any]) -> UNet:
    resolutions = [full["img_resolution"] >> level for level in range(len(full["channel_mult"]))]
    fields: dict[str, Any] = {
        "channels": full["model_channels"],
        "channel_multipliers": full["channel_mult"],
        "blocks_per_level": full["num_blocks"],
        "attention_levels": tuple(size in full["attn_resolutions"] for size in resolutions),
        "dropout": float(full["dropout"]),
        "num_classes": full["label_dim"],
        "out_channels": full["out_channels"],
        "resample": "pool",
        "time_embedding": "sinusoidal",
        "time_scale": 1.0,
    }
    if full["model_type"] == "DhariwalUNet":
        return UNet(**fields, scale_shift=True, head_size=64, norm_epsilon=1e-5)
    return NCSNpp(**fields, progressive_input="none", rescale_skip=True, time_shift=1.0, norm_epsilon=1e-6)


def _their_name(name: str, full: Mapping[str, Any]) -> str | None:
    """Where one of our arrays is found there; None for skip connections that they have not."""
    module, leaf = name.rsplit("/", 1)
    kind = "bias" if leaf == "bias" else "weight"
    plain = full["model_type"] == "DhariwalUNet"

    def at(level: int) -> str:
        return f"{full['img_resolution'] >> level}x{full['img_resolution'] >> level}"

    ends = {
        "stem": f"enc.{at(0)}_conv",
        "out_norm": "out_norm" if plain else f"dec.{at(0)}_aux_norm",
        "out_conv": "out_conv" if plain else f"dec.{at(0)}_aux_conv",
        "condition/time_in": "map_layer0",
        "condition/time_out": "map_layer1",
        "condition/label": "map_label",
    }
    if module in ends:
        return f"{ends[module]}.{kind}"
    place = place_of(module)
    half = "enc" if place.way == "down" else "dec"
    if place.kind == "resample":
        if plain and place.part == "skip":
            return None
        owner = f"{at(place.level + (1 if half == 'enc' else -1))}_{place.way}"
    elif place.way == "middle":
        owner = f"{at(len(full['channel_mult']) - 1)}_in{place.number}"
    else:
        owner = f"{at(place.level)}_block{place.number}"
    return f"{half}.{owner}.{_PARTS[place.part]}.{kind}"


def _their_shape(like: np.ndarray, theirs: str) -> np.ndarray:
    """Zeros of their shape, without memory, for one of our arrays."""
    shape = like.shape
    if theirs == "map_label.weight":
        shape = (shape[1], shape[0] - 1)
    elif theirs.endswith((".qkv.weight", ".proj.weight")):
        shape = (shape[1], shape[0], 1, 1)
    elif len(shape) == 4:
        shape = (shape[3], shape[2], shape[0], shape[1])
    elif len(shape) == 2:
        shape = shape[::-1]
    return np.broadcast_to(np.float32(0), shape)


def _to_ours(like: np.ndarray, theirs: str | None, weights: Tensors, model: UNet) -> np.ndarray:
    if theirs is None:
        return identity(like)
    value = weights[theirs]
    if theirs == "map_label.weight":
        value = np.pad(value.T, ((0, 1), (0, 0)))  # nothing is added for a sample without a label
    elif theirs.endswith((".qkv.weight", ".qkv.bias")):
        columns = value.reshape(value.shape[0], -1).T if value.ndim == 4 else value
        heads = 1 if model.head_size is None else like.shape[-1] // 3 // model.head_size
        value = columns.reshape(*like.shape[:-1], heads, -1, 3).swapaxes(-1, -2).reshape(like.shape)
    elif theirs.endswith(".proj.weight"):
        value = value[:, :, 0, 0].T
    elif value.ndim in (2, 4):
        value = from_torch(value)
    if theirs == "map_layer0.weight" and isinstance(model, NCSNpp):
        value = np.roll(value, value.shape[0] // 2, axis=0)  # their sines come first
    return np.ascontiguousarray(value, np.float32)
