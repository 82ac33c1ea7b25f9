"""Perceptrons for vectors: toy distributions, actions, latent codes."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffax.checks import require
from diffax.models.features import keep
from diffax.models.layers.conv import dense
from diffax.models.layers.embedding import ConditionEmbedding, check_time, concat_condition
from diffax.models.layers.norm import layer_norm, modulate
from diffax.types import Cond


class MLPBlock(nn.Module):
    """``h + W0 dropout(silu(W silu(modulate(norm(h)))))``, where ``W0`` starts at zero."""

    dropout: float = 0.0
    train: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Float[Array, "b w"], embedding: Float[Array, "b e"]) -> Float[Array, "b w"]:
        """Transform each vector under its embedding."""
        width = h.shape[-1]
        modulation = dense(2 * width, dtype=self.dtype, name="modulation")(embedding)
        r = nn.silu(modulate(layer_norm(h), *jnp.split(modulation, 2, axis=-1)))
        r = nn.silu(dense(width, dtype=self.dtype, name="in")(r))
        r = nn.Dropout(self.dropout, deterministic=not self.train)(r)
        return h + dense(width, zero_init=True, dtype=self.dtype, name="out")(r)


class MLP(nn.Module):
    """Residual perceptron, ``model.apply({"params": p}, x, time, cond, train=False)``.

    It takes vectors, or all numbers of an image in a row.

    ``x`` is Float["b ..."], ``time`` Float["b"], ``cond`` None or a mapping with "label" Int["b"],
    "unconditional" Bool["b"] and "concat" Float["b ... c2"]. The output has the shape and dtype of
    ``x`` and is zero at initialisation.

    * ``width``, ``blocks``: hidden width and number of residual blocks.
    * ``num_classes``: size of the label table, 0 to ignore labels. ``out_features``: None for those of x.
    * ``time_embedding``: "sinusoidal" or "fourier"; ``time_scale``: None for its default (1000 or 16), made
      for times in [0, 1]; for ``log(sigma) / 4`` take "fourier" with a scale of 1.
    * ``dtype``: of the computation, such as ``jnp.bfloat16``; parameters and statistics stay float32.

    Raises ValueError for inputs of other shapes and for options outside of these.
    """

    width: int = 128
    blocks: int = 3
    dropout: float = 0.0
    num_classes: int = 0
    out_features: int | None = None
    time_embedding: str = "sinusoidal"
    time_scale: float | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], time: Float[Array, "b"], cond: Cond | None = None, train: bool = False
    ) -> Float[Array, "b ..."]:
        """Run the network; ``train=True`` needs a "dropout" key where ``dropout > 0``."""
        require(x.ndim >= 2, "x.shape", x.shape, "(batch, ...)")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number in [0, 1)")
        check_time(time, x.shape[0])
        embedding = ConditionEmbedding(
            self.width, self.width, self.num_classes, self.time_embedding, self.time_scale, name="condition"
        )(time, cond)
        flat = concat_condition(x, cond).reshape(x.shape[0], -1)
        h = dense(self.width, dtype=self.dtype, name="stem")(flat)
        for index in range(self.blocks):
            h = MLPBlock(self.dropout, train, self.dtype, name=f"block{index}")(h, embedding)
            keep(self, f"hidden{index}", h)
        h = nn.silu(layer_norm(h))
        shape = x.shape[1:] if self.out_features is None else (self.out_features,)
        output = dense(math.prod(shape), zero_init=True, dtype=self.dtype, name="out")(h)
        return output.reshape(x.shape[0], *shape).astype(x.dtype)


class Perceptron(nn.Module):
    """Plain layers with leaky rectifiers over joined vectors, ``model.apply({"params": p}, *inputs)``.

    ``inputs`` are Float["b d_i"], the output is Float["b out_features"]. The network of toy studies
    (Xiao et al. 2022, appendix C.5): without norms and residuals, which make a discriminator of points in
    the plane learn slowly.

    * ``out_features``; ``width``, ``layers``: of the hidden layers, whose rectifiers have slope 0.2 below 0.
    * ``dtype``: of the computation; parameters stay float32.
    """

    out_features: int
    width: int = 128
    layers: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, *inputs: Float[Array, "b _"]) -> Float[Array, "b d"]:
        """Run the network."""
        h = jnp.concatenate(inputs, axis=-1)
        for index in range(self.layers):
            init = nn.initializers.lecun_normal()
            h = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name=f"layer{index}")(h)
            h = nn.leaky_relu(h, 0.2)
        return dense(self.out_features, name="out")(h).astype(inputs[0].dtype)
