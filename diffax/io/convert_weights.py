"""Arrays of ``UNet`` under the names and in the layout of a network of PyTorch's libraries, and back.

Ours: kernels (height, width, in, out) and (in, out); one ``qkv`` map whose columns are (head, q k v, entry).
Theirs: weights (out, in, height, width) and (out, in); three maps. Nothing is computed: arrays are moved.
What a library calls its parts is a table (:class:`Names`) beside its configuration.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffax.checks import require
from diffax.models.unet import UNet
from diffax.types import Params

Tensors = dict[str, np.ndarray]

LABELS = "condition/label/embedding"
QKV = ("to_q", "to_k", "to_v")


class Names(NamedTuple):
    """How a library names the parts of a U-Net.

    ``ends`` stand outside of the blocks. ``places`` are templates of "block", "attention", "middle_block",
    "middle_attention", and "down" and "up" that change the resolution; in them ``{way}`` is "down" or "up",
    ``{number}`` a level in their order, ``{index}`` a block in its level and ``{next}`` one more. ``parts``
    of a block are appended; None says that they have the identity there. ``former``: older names.
    """

    ends: Mapping[str, str]
    places: Mapping[str, str]
    parts: Mapping[str, str | None]
    former: Mapping[str, str] = {}


class Layout(NamedTuple):
    """What the place of an array depends on; ``sine_first``: their time features begin with the sines."""

    names: Names
    levels: int
    heads: int
    head_size: int | None
    sine_first: bool

    @classmethod
    def of(cls, names: Names, model: UNet, sine_first: bool = False) -> "Layout":
        """The layout of a network."""
        return cls(names, len(model.channel_multipliers), model.heads, model.head_size, sine_first)

    def heads_of(self, channels: int) -> int:
        """How many attention heads share so many channels."""
        return self.heads if self.head_size is None else channels // self.head_size


class Place(NamedTuple):
    """A block of the network: ``way`` is down, middle or up; ``kind`` None, "attention" or "resample"."""

    way: str
    level: int
    number: int
    kind: str | None
    part: str


def to_theirs(arrays: Mapping[str, np.ndarray], layout: Layout) -> Tensors:
    """All arrays under their names: views where possible."""
    return dict(pair for name, value in arrays.items() for pair in _to_theirs(name, value, layout))


def to_ours(weights: Mapping[str, np.ndarray], shapes: Mapping[str, np.ndarray], layout: Layout) -> Tensors:
    """The arrays of a network whose parameters have the names and shapes of ``shapes``, in float32.

    Raises ValueError for weights that are missing, unexpected or of another shape or dtype.
    """
    given, weights = weights, {_modern(name, layout.names): value for name, value in weights.items()}
    require(len(given) == len(weights), "weights", sorted(given), "one name for each array")
    check_same(weights, to_theirs(shapes, layout), "weights")
    check_exact(weights)
    return {name: _to_ours(name, value, weights, layout) for name, value in shapes.items()}


def import_params(
    model: UNet,
    in_channels: int,
    weights: Mapping[str, np.ndarray],
    names: Names,
    *,
    sine_first: bool = False,
    null_label: bool = False,
) -> Params:
    """The parameters of ``model`` from a state dict; raises as :func:`to_ours`.

    Their table of labels has a row for "no label" under ``null_label``; else ours gets one of zeros.
    """
    shapes = parameter_shapes(model, in_channels)
    extra = bool(model.num_classes) and not null_label
    if extra:
        shapes[LABELS] = shapes[LABELS][:-1]
    arrays = to_ours(weights, shapes, Layout.of(names, model, sine_first))
    if extra:
        arrays[LABELS] = np.pad(arrays[LABELS], ((0, 1), (0, 0)))
    return traverse_util.unflatten_dict(arrays, sep="/")


def parameter_shapes(model: UNet, in_channels: int) -> Tensors:
    """Names and shapes of a network's parameters: zeros that take no memory."""
    size = model.patch_size * 2 ** (len(model.channel_multipliers) - 1)
    x, time = jnp.zeros((1, *(size,) * model.dims, in_channels)), jnp.zeros(1)
    tree = jax.eval_shape(model.init, jax.random.key(0), x, time)["params"]
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in flat.items()}


def check_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], field: str) -> None:
    """Raise ValueError unless both have the same names, with the same shapes."""
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    require(not unexpected, field, f"unexpected {_brief(unexpected)}", "the names of this network alone")
    require(not missing, field, f"no {_brief(missing)}", "all arrays of this network")
    for name, value in wanted.items():
        require(found[name].shape == value.shape, f"shape of {name}", found[name].shape, f"{value.shape}")


def check_exact(weights: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for numbers that float32 does not hold."""
    exact = ("float32", "float16", "bfloat16")
    for name, value in weights.items():
        require(value.dtype.name in exact, f"dtype of {name}", value.dtype.name, ", ".join(exact))


def from_torch(value: np.ndarray) -> np.ndarray:
    """A weight (out, in, ...) as our kernel (..., in, out), for any number of axes of pixels."""
    return np.moveaxis(value, (0, 1), (-1, -2))


def identity(like: np.ndarray) -> np.ndarray:
    """What stands for a linear map, or a convolution of one pixel, that they have not; a bias of zeros."""
    if like.ndim == 1:
        return np.zeros(like.shape, np.float32)
    return np.broadcast_to(np.eye(like.shape[-1], dtype=np.float32), like.shape).copy()


def _to_theirs(name: str, value: np.ndarray, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    module, leaf = name.rsplit("/", 1)
    theirs, kind = _their_module(module, layout), "bias" if leaf == "bias" else "weight"
    if theirs is None:
        return
    if module.endswith("attention/qkv"):
        lead, channels = value.shape[:-1], value.shape[-1] // 3
        columns = value.reshape(*lead, layout.heads_of(channels), 3, -1)
        for index, part in enumerate(QKV):
            yield f"{theirs}.{part}.{kind}", columns[..., index, :].reshape(*lead, channels).T
        return
    if leaf == "kernel":
        value = np.moveaxis(_swap_halves(value, name, layout), (-1, -2), (0, 1))
    yield f"{theirs}.{kind}", value


def _to_ours(name: str, like: np.ndarray, weights: Mapping[str, np.ndarray], layout: Layout) -> np.ndarray:
    module, leaf = name.rsplit("/", 1)
    theirs, kind = _their_module(module, layout), "bias" if leaf == "bias" else "weight"
    if theirs is None:
        value = identity(like)
    elif module.endswith("attention/qkv"):
        heads = layout.heads_of(like.shape[-1] // 3)
        maps = [weights[f"{theirs}.{part}.{kind}"].T for part in QKV]
        value = np.stack([m.reshape(*m.shape[:-1], heads, -1) for m in maps], axis=-2).reshape(like.shape)
    else:
        value = weights[f"{theirs}.{kind}"]
        if leaf == "kernel":
            value = _swap_halves(from_torch(value), name, layout)
    return np.ascontiguousarray(value, np.float32)


def _swap_halves(kernel: np.ndarray, name: str, layout: Layout) -> np.ndarray:
    """Our time features begin with the cosines: where theirs do not, the rows that read them trade places."""
    if not layout.sine_first or name != "condition/time_in/kernel":
        return kernel
    return np.roll(kernel, kernel.shape[0] // 2, axis=0)


def place_of(module: str) -> Place:
    """Where one of our modules stands, such as "up2_block0_attention/norm"; not the stem, the head, or
    what embeds the condition.
    """
    block, _, part = module.partition("/")
    found = re.fullmatch(r"(down|up|middle)(\d*)_(?:block(\d+))?_?(attention|resample)?", block)
    assert found is not None, module
    way, level, index, kind = found.groups()
    return Place(way, int(level or 0), int(index or 0), kind, part)


def _their_module(module: str, layout: Layout) -> str | None:
    """Their name of one of our modules, but for the split of ``qkv``; None for what they have not."""
    names = layout.names
    if module in names.ends:
        return names.ends[module]
    way, level, index, kind, part = place_of(module)
    number = level if way == "down" else layout.levels - 1 - level
    # A block that changes the resolution and not the channels has a convolution in its skip here alone.
    tail = None if (kind, part) == ("resample", "skip") else names.parts[part]
    if tail is None:
        return None
    prefix = "middle_" if way == "middle" else ""
    place = way if kind == "resample" else prefix + (kind or "block")
    return names.places[place].format(way=way, number=number, index=index, next=index + 1) + tail


def _modern(name: str, names: Names) -> str:
    """The present name of an attention map that an older version named otherwise."""
    owner, _, leaf = name.rpartition(".")
    head, _, part = owner.rpartition(".")
    return f"{head}.{names.former[part]}.{leaf}" if ".attentions." in name and part in names.former else name


def _brief(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
