"""The Inception network of FID: 2048 features, from a weights file that the user supplies.

Szegedy et al. 2015 (arXiv:1512.00567), in the variant of the 2015-12-05 TensorFlow graph that Heusel et
al. 2017 used: average pooling in the mixed blocks does not count the padding, and the last block pools
by maximum. Layers carry the names of the state dict ``pt_inception-2015-12-05``, the usual port of those
weights to PyTorch. With that package at hand the file is made by::

    state = torch.load("pt_inception-2015-12-05-6726825d.pth")
    np.savez("inception.npz", **{name: value.numpy() for name, value in state.items()})

Numbers agree with published FIDs only if images are stored and resized as they were there (PNG, 8 bit).
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.evaluation.features import FeatureExtractor, digest_of
from diffax.evaluation.weights import read_state_dict

_DIM = 2048
Map = Float[Array, "b _ _ _"]  # (b, h, w, c)

# flax's collection and name, by the torch name of a leaf
_LEAVES = {
    "conv.weight": ("params", "conv", "kernel"),
    "bn.weight": ("params", "bn", "scale"),
    "bn.bias": ("params", "bn", "bias"),
    "bn.running_mean": ("batch_stats", "bn", "mean"),
    "bn.running_var": ("batch_stats", "bn", "var"),
}
_TORCH_NAMES = {path: name for name, path in _LEAVES.items()}


class ConvUnit(nn.Module):
    """Convolution, batch normalisation with stored statistics, ReLU."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Map) -> Map:
        x = nn.Conv(self.width, self.kernel, self.stride, self.padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def _chain(x: Map, name: str, *layers: tuple[int, tuple[int, int]], last_stride: int = 1) -> Map:
    """Units ``name_1, name_2, ...``; a stride is the last one's, which then has no padding."""
    for i, (width, kernel) in enumerate(layers, 1):
        strided = last_stride > 1 and i == len(layers)
        unit = partial(ConvUnit, stride=last_stride, padding="VALID") if strided else ConvUnit
        x = unit(width, kernel, name=f"{name}_{i}")(x)
    return x


def _average(x: Map) -> Map:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x: Map, stride: int = 2) -> Map:
    return nn.max_pool(x, (3, 3), (stride, stride), "VALID" if stride == 2 else "SAME")


class MixedA(nn.Module):
    """35x35 block: 1x1, 5x5 and doubled 3x3 branches beside pooling (Mixed_5b .. 5d)."""

    pool_width: int

    @nn.compact
    def __call__(self, x: Map) -> Map:
        one = ConvUnit(64, name="branch1x1")(x)
        five = _chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5)))
        double = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
        pool = ConvUnit(self.pool_width, name="branch_pool")(_average(x))
        return jnp.concatenate([one, five, double, pool], axis=-1)


class MixedB(nn.Module):
    """Reduction from 35x35 to 17x17 (Mixed_6a)."""

    @nn.compact
    def __call__(self, x: Map) -> Map:
        three = ConvUnit(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        double = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), last_stride=2)
        return jnp.concatenate([three, double, _maximum(x)], axis=-1)


class MixedC(nn.Module):
    """17x17 block of factorised 7x7 convolutions (Mixed_6b .. 6e)."""

    width: int

    @nn.compact
    def __call__(self, x: Map) -> Map:
        w, row, column = self.width, (1, 7), (7, 1)
        one = ConvUnit(192, name="branch1x1")(x)
        seven = _chain(x, "branch7x7", (w, (1, 1)), (w, row), (192, column))
        layers = ((w, (1, 1)), (w, column), (w, row), (w, column), (192, row))
        double = _chain(x, "branch7x7dbl", *layers)
        pool = ConvUnit(192, name="branch_pool")(_average(x))
        return jnp.concatenate([one, seven, double, pool], axis=-1)


class MixedD(nn.Module):
    """Reduction from 17x17 to 8x8 (Mixed_7a)."""

    @nn.compact
    def __call__(self, x: Map) -> Map:
        three = _chain(x, "branch3x3", (192, (1, 1)), (320, (3, 3)), last_stride=2)
        layers = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3)))
        seven = _chain(x, "branch7x7x3", *layers, last_stride=2)
        return jnp.concatenate([three, seven, _maximum(x)], axis=-1)


class MixedE(nn.Module):
    """8x8 block whose branches fork (Mixed_7b, 7c); ``maximum`` chooses the pooling, the last block's."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Map) -> Map:
        one = ConvUnit(320, name="branch1x1")(x)
        three = _fork(_chain(x, "branch3x3", (384, (1, 1))), "branch3x3_2")
        double = _fork(_chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3))), "branch3x3dbl_3")
        pooled = _maximum(x, stride=1) if self.maximum else _average(x)
        pool = ConvUnit(192, name="branch_pool")(pooled)
        return jnp.concatenate([one, three, double, pool], axis=-1)


def _fork(x: Map, name: str) -> Map:
    row = ConvUnit(384, (1, 3), name=f"{name}a")(x)
    column = ConvUnit(384, (3, 1), name=f"{name}b")(x)
    return jnp.concatenate([row, column], axis=-1)


class FidInception(nn.Module):
    """From images (b, 299, 299, 3) in [-1, 1] to the 2048 features of the last pooling layer."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        x = ConvUnit(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvUnit(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _maximum(ConvUnit(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = ConvUnit(80, name="Conv2d_3b_1x1")(x)
        x = _maximum(ConvUnit(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        for letter, width in zip("bcd", (32, 64, 64), strict=True):
            x = MixedA(width, name=f"Mixed_5{letter}")(x)
        x = MixedB(name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = MixedC(width, name=f"Mixed_6{letter}")(x)
        x = MixedD(name="Mixed_7a")(x)
        x = MixedE(maximum=False, name="Mixed_7b")(x)
        x = MixedE(maximum=True, name="Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))


def inception_features(weights: str | Path) -> FeatureExtractor:
    """The extractor of FID with the weights of a ``.npz`` or ``.safetensors`` file, named as in PyTorch.

    Images (b, h, w, 1 or 3) in [-1, 1] of any size are resized to 299x299, bilinear without antialiasing.
    Raises ``ValueError`` that names the field, the file and what is missing or misshapen.
    """
    state = read_state_dict("weights", weights)
    variables = load_variables(state, str(weights))
    kept = {name: state[name] for name in torch_names()}
    apply = jax.jit(partial(_features, variables))
    return FeatureExtractor("inception-v3-pool3", apply, _DIM, digest_of(kept))


def torch_names() -> dict[str, tuple[int, ...]]:
    """Name and shape, in PyTorch's order of axes, of every array that the network needs."""
    names = {}
    for (collection, *layer, unit, leaf), shape in _shapes().items():
        torch = ".".join((*layer, _TORCH_NAMES[collection, unit, leaf]))
        names[torch] = tuple(shape[i] for i in (3, 2, 0, 1)) if leaf == "kernel" else shape
    return names


def load_variables(state: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    """Flax variables from a PyTorch state dict; ``fc`` and the counters of batch normalisation are left."""
    leaves = {}
    for name, shape in torch_names().items():
        require(name in state, f"weights: {where}", f"no {name!r}", "a state dict as pt_inception-2015-12-05")
        value = np.asarray(state[name], np.float32)
        require(value.shape == shape, f"weights: {where}: shape of {name}", value.shape, str(shape))
        require(bool(np.isfinite(value).all()), f"weights: {where}: {name}", "nan or inf", "finite values")
        *layer, unit, leaf = name.split(".")
        collection, unit, leaf = _LEAVES[f"{unit}.{leaf}"]
        leaves[collection, *layer, unit, leaf] = jnp.asarray(
            value.transpose(2, 3, 1, 0) if leaf == "kernel" else value
        )
    return unflatten_dict(leaves)


def _shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    variables = jax.eval_shape(FidInception().init, jax.random.key(0), image)
    return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def resize_299(images: Float[Array, "b h w c"]) -> Float[Array, "b 299 299 3"]:
    """Grey to colour, then 299x299: bilinear between pixel centres, edges repeated, no antialiasing."""
    require(images.shape[-1] in (1, 3), "images: channels", images.shape[-1], "1 or 3")
    colour = jnp.broadcast_to(images, (*images.shape[:-1], 3))
    return jax.image.resize(colour, (len(colour), 299, 299, 3), "linear", antialias=False)


def _features(variables: dict[str, Any], images: Float[Array, "b h w c"]) -> Float[Array, "b 2048"]:
    return cast(Array, FidInception().apply(variables, resize_299(images)))
