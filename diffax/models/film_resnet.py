r"""ResNets that turn camera images into vectors, under a goal.

    h = max_pool(relu(norm(conv7(images))))                # a quarter of the images' size
    h = relu(skip(h) + branch(h)),  a few blocks           # four stages; all but the first halve the size
    h = (1 + gamma) h + beta,  (gamma, beta) = W goal + b  # after each stage; W = b = 0 at first
    y = mean over pixels of h

The layers, and the zeros around images, are torchvision's, so that its weights fit
(:func:`with_torchvision`): a bottleneck halves in its 3 x 3 convolution. Source: He et al. 2016
(arXiv:1512.03385); FiLM: Perez et al. 2018 (arXiv:1709.07871).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import lax
from jaxtyping import Array, Float, Shaped

from diffax.checks import require, require_one_of
from diffax.models.layers.conv import conv, dense
from diffax.models.layers.norm import GroupNorm, modulate, over_pixels
from diffax.types import Params

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # of each stage, by depth
ENCODERS = {f"resnet{depth}": depth for depth in BLOCKS}
NORMS = ("group", "frozen")
SMALLEST = 32  # pixels a side: as many as the last stage makes one of
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_THEIRS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_PLACES = {"conv_stem": "conv1", "norm_stem": "bn1", "conv_skip": "downsample.0", "norm_skip": "downsample.1"}


def normalise_images(
    images: Shaped[Array | np.ndarray, "*b c"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Array, "*b c"]:
    """``(v - mean) / std`` of each colour, v in [0, 1]: what encoders read, float32 between about -2 and 3.

    ``images`` are bytes, ``v = images / 255``, or floats in [-1, 1] as the sources of this library give them,
    ``v = (images + 1) / 2``. Weights from elsewhere need the mean and deviation that they were trained with;
    the default is ImageNet's. Raises ValueError for other types, or other than three channels.
    """
    require(images.ndim > 0 and images.shape[-1] == 3, "images.shape", images.shape, "(..., 3)")
    floats = jnp.issubdtype(images.dtype, jnp.floating)
    require(floats or images.dtype == jnp.uint8, "images.dtype", images.dtype.name, "uint8 or floats")
    values = jnp.asarray(images, jnp.float32)
    unit = (values + 1) / 2 if floats else values / 255
    return (unit - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


class FrozenNorm(nn.Module):
    """``(x - mean) scale / sqrt(var + epsilon) + bias`` of each channel, with a mean and variance that stay.

    Batch normalisation at inference, for weights from elsewhere. ``mean`` and ``var`` are parameters that
    receive no gradient: an optimiser that decays weights must leave them out.
    """

    dtype: Any = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
        """Normalise ``x`` in float32; the result is in the compute dtype."""
        size = (x.shape[-1],)
        scale, var = (self.param(name, nn.initializers.ones, size) for name in ("scale", "var"))
        bias, mean = (self.param(name, nn.initializers.zeros, size) for name in ("bias", "mean"))
        scale *= lax.rsqrt(lax.stop_gradient(var) + self.epsilon)
        y = (x.astype(jnp.float32) - lax.stop_gradient(mean)) * scale + bias
        return y.astype(self.dtype or x.dtype)


class EncoderBlock(nn.Module):
    """``relu(skip(x) + branch(x))``: two convolutions of 3 x 3, or of a bottleneck 1 x 1, 3 x 3 and 1 x 1.

    A norm follows each, a ReLU all but the last. A bottleneck ends with four times its ``features``. The skip
    is a normalised 1 x 1 convolution where the shape changes.
    """

    features: int
    stride: int = 1
    bottleneck: bool = False
    norm: str = "group"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Transform ``x``, to a size smaller by the stride."""
        n, stride = self.features, self.stride
        layers = [(n, 3, stride), (n, 3, 1)]
        if self.bottleneck:
            layers = [(n, 1, 1), (n, 3, stride), (4 * n, 1, 1)]
        convolve = partial(normalised_conv, norm=self.norm, dtype=self.dtype)
        h = x
        for index, layer in enumerate(layers, 1):
            h = convolve(h, *layer, name=str(index))
            h = nn.relu(h) if index < len(layers) else h
        if h.shape != x.shape:
            x = convolve(x, h.shape[-1], 1, stride, name="_skip")
        return nn.relu(x + h)


def normalised_conv(
    x: Float[Array, "b h w c"], features: int, kernel: int, stride: int, norm: str, dtype: Any, name: str
) -> Float[Array, "b h2 w2 c2"]:
    """A convolution without bias, then its norm: ``conv<name>`` and ``norm<name>`` of the calling module."""
    padding = kernel // 2  # on every side; "SAME" at a stride of two is one fewer on top and left
    options = {"stride": stride, "padding": padding, "bias": False, "dtype": dtype}
    h = conv(features, kernel, **options, name=f"conv{name}")(x)
    layer: Any = GroupNorm if norm == "group" else FrozenNorm
    return layer(dtype=dtype, name=f"norm{name}")(h)


class FilmResNet(nn.Module):
    """Features of images, ``model.apply({"params": p}, images, goal)``: Float["b d"], float32.

    ``images`` are Float["b h w 3"], each side of 32 pixels or more: from :func:`normalise_images`, or in
    [-1, 1] where no weights are loaded. ``goal`` is Float["b g"], which scales and shifts the channels after
    each stage, not at all at first; a network that was initialised without one never reads one.

    * ``depth``: 18, of d = 512 features, or 50, of 2,048.
    * ``norm``: "group", which needs no other sample and learns from scratch, or "frozen", batch norms whose
      moments stay (:class:`FrozenNorm`), for loaded weights (:func:`with_torchvision`).
    * ``dtype``: of the computation, such as ``jnp.bfloat16``; parameters, norms and the mean stay float32.

    Raises ValueError for options outside of these, and other images.
    """

    depth: int = 18
    norm: str = "group"
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], goal: Float[Array, "b2 g"] | None = None
    ) -> Float[Array, "b d"]:
        """Encode each image, under its goal."""
        require(self.depth in BLOCKS, "depth", self.depth, "18 or 50")
        require_one_of("norm", self.norm, NORMS)
        check_images("images", images)
        h = nn.relu(normalised_conv(images, 64, 7, 2, self.norm, self.dtype, "_stem"))
        h = nn.max_pool(h, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(BLOCKS[self.depth], 1):
            options = {"bottleneck": self.depth >= 50, "norm": self.norm, "dtype": self.dtype}
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"stage{stage}_block{index}"
                h = EncoderBlock(32 * 2**stage, stride, **options, name=name)(h)
            if goal is not None:
                h = self.film(h, goal, stage)
        return jnp.mean(h.astype(jnp.float32), axis=(1, 2))

    @nn.nowrap
    def film(
        self, h: Float[Array, "b h w c"], goal: Float[Array, "b2 g"], stage: int
    ) -> Float[Array, "b h w c"]:
        """Scale and shift the channels by linear maps of the goal."""
        fits = goal.ndim == 2 and goal.shape[0] == h.shape[0]
        require(fits, "goal.shape", goal.shape, f"({h.shape[0]}, numbers), a goal for each image")
        linear = dense(2 * h.shape[-1], zero_init=True, dtype=self.dtype, name=f"film{stage}")
        return modulate(h, *jnp.split(over_pixels(linear(goal), h), 2, axis=-1))


class Cameras(nn.Module):
    """Features of the images of several cameras, each with an encoder of its own, named as the camera.

    ``encoder``: "resnet18" or "resnet50"; ``norm``, ``dtype``: of :class:`FilmResNet`.
    """

    encoder: str = "resnet18"
    norm: str = "group"
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Mapping[str, Array], goal: Float[Array, "b g"] | None = None
    ) -> dict[str, Float[Array, "b s d"]]:
        """Encode Float["b s h w 3"], s steps, of each camera; features of before, Float["b s d"], stay."""
        return {name: self.encode(name, images[name], goal) for name in sorted(images)}

    @nn.nowrap
    def encode(self, name: str, images: Array, goal: Float[Array, "b g"] | None) -> Float[Array, "b s d"]:
        """The steps of one camera, all under the same goal."""
        if images.ndim == 3:
            return images
        check_images(f"cond['images'][{name!r}]", images, steps=True)
        encoder = FilmResNet(ENCODERS[self.encoder], self.norm, self.dtype, name=name)
        each = None if goal is None else jnp.repeat(goal, images.shape[1], axis=0)
        return encoder(images.reshape(-1, *images.shape[2:]), each).reshape(*images.shape[:2], -1)


def check_images(field: str, images: Array, steps: bool = False) -> None:
    """Raise ``ValueError``, naming the field, for images that no encoder reads."""
    shape, axes = images.shape, "(b, steps, h, w, 3)" if steps else "(b, h, w, 3)"
    fits = len(shape) == (5 if steps else 4) and shape[-1] == 3 and min(shape[-3:-1]) >= SMALLEST
    require(fits, f"{field}.shape", shape, f"{axes}, h and w of {SMALLEST} or more")
    floats = jnp.issubdtype(images.dtype, jnp.floating)
    require(floats, f"{field}.dtype", images.dtype.name, "floats, such as normalise_images makes of bytes")


def with_torchvision(params: Params, tensors: Mapping[str, np.ndarray]) -> Params:
    """Parameters of a :class:`FilmResNet` of ``norm="frozen"``, a torchvision ResNet's in place of its own.

    ``tensors`` are the state dict of a ResNet of the same depth, such as
    :func:`diffax.io.weights.read_tensors` reads; its classifier is not used, FiLM stays as it is. A policy's
    encoders are its ``params["cameras"][name]``. Raises ValueError for a tensor that is missing, left over,
    or of another shape.
    """
    left = {name: value for name, value in tensors.items() if not _is_unused(name)}
    flat = traverse_util.flatten_dict(params, sep="/")
    for name, leaf in flat.items():
        if name.startswith("film"):
            continue
        theirs = torchvision_name(name)
        require(theirs in left, "tensors", f"none named {theirs}", "a ResNet of the same depth")
        value = left.pop(theirs)
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        require(value.shape == leaf.shape, theirs, value.shape, f"{leaf.shape}")
        flat[name] = jnp.asarray(value, leaf.dtype)
    allowed = "a ResNet of the same depth, norm='frozen'"
    require(not left, "tensors", sorted(left)[:3], allowed)
    return traverse_util.unflatten_dict(flat, sep="/")


def torchvision_name(name: str) -> str:
    """``stage2_block0/norm1/scale`` is ``layer2.0.bn1.weight`` there."""
    *places, leaf = name.split("/")
    block, layer = places[:-1], places[-1]
    found = [re.sub(r"stage(\d+)_block(\d+)", r"layer\1.\2", place) for place in block]
    return ".".join([*found, _PLACES.get(layer, layer.replace("norm", "bn")), _THEIRS.get(leaf, leaf)])


def _is_unused(name: str) -> bool:
    return name.startswith("fc.") or name.endswith(".num_batches_tracked")
