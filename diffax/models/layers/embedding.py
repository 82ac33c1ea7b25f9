"""Conditioning: from a time, a class label, a vector and an image to what a network reads.

The time becomes a bank of sines and cosines, then a small perceptron; the label picks a row of a table
whose last row stands for "no label"; a vector of numbers, such as angles, goes through a perceptron of its
own, or is replaced by a learned one where it is not given. Their sum, through a SiLU, conditions every block
of every network.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from diffax.checks import is_concrete, require, require_one_of
from diffax.models.layers.conv import dense
from diffax.types import Cond, Size


def sinusoidal_features(
    time: Float[Array, "b"], features: int, scale: float = 1000.0, shift: float = 0.0
) -> Float[Array, "b f"]:
    """Cosines and sines of ``scale * time`` at frequencies from 1 down to 1/10000, evenly spaced in log.

    ``scale=1000`` lets a time in [0, 1] sweep the range that the integer steps of DDPM did. ``features``
    must be even. Of the ``features / 2`` frequencies the last is a step short of 1/10000; ``shift=1``, below
    their number, divides the logs by one fewer and so reaches it, as Ho et al. do.
    Source: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B.
    """
    require(features % 2 == 0 and features > 0, "features", features, "a positive even number")
    half = features // 2
    require(shift < half, "shift", shift, f"a number below features / 2 = {half}")
    frequencies = np.exp(-math.log(10_000.0) * np.arange(half) / (half - shift)).astype(np.float32)
    angles = scale * time.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def fourier_features(
    time: Float[Array, "b"], features: int, scale: float = 16.0, seed: int = 0
) -> Float[Array, "b f"]:
    """Sines and cosines of ``2 pi f time`` at fixed random frequencies ``f ~ N(0, scale^2)``.

    The frequencies are no parameters: they follow from ``seed`` through numpy's frozen legacy generator,
    so that no optimiser moves them and no version or backend changes them. ``features`` must be even.
    Source: Tancik et al. 2020; Song et al. 2021, appendix C.2.
    """
    require(features % 2 == 0 and features > 0, "features", features, "a positive even number")
    frequencies = scale * np.random.RandomState(seed).standard_normal(features // 2)
    angles = 2 * math.pi * time.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


_TIME_FEATURES = {"sinusoidal": sinusoidal_features, "fourier": fourier_features}


def time_features(
    time: Float[Array, "b"], features: int, kind: str, scale: float | None = None, shift: float = 0.0
) -> Float[Array, "b f"]:
    """Features of the time: ``kind`` is "sinusoidal" or "fourier", ``scale=None`` that kind's default.

    ``shift`` is of the sinusoidal kind alone.
    """
    require_one_of("time_embedding", kind, _TIME_FEATURES)
    require(kind == "sinusoidal" or shift == 0, "time_shift", shift, "0 for a 'fourier' time_embedding")
    options = {} if scale is None else {"scale": scale}
    if shift:
        options["shift"] = shift
    return _TIME_FEATURES[kind](time, features, **options)


def label_rows(cond: Cond | None, num_classes: int, batch: Size) -> Int[Array, "b"]:
    """Row of the label table for each sample: its class, or ``num_classes`` where it has none.

    A sample has no label where ``cond`` brings none or ``cond["unconditional"]`` is true.
    Raises ValueError for a label outside [0, num_classes) whose value can be read (outside of jit).
    """
    null = jnp.full((batch,), num_classes, jnp.int32)
    if cond is None or "label" not in cond:
        return null
    label = cond["label"]
    require(label.shape == (batch,), "cond['label'].shape", label.shape, f"({batch},), as x")
    if is_concrete(label):
        values = np.asarray(label)  # numpy, for jnp would be traced where jit closes over a label
        known = bool(np.all((values >= 0) & (values < num_classes)))
        require(known, "cond['label']", label, f"classes from 0 to {num_classes - 1}")
    if "unconditional" in cond:
        return jnp.where(cond["unconditional"], null, label)
    return label


def concat_condition(x: Float[Array, "b ... c"], cond: Cond | None) -> Float[Array, "b ... c2"]:
    """Append ``cond["concat"]`` to the channels of ``x``: zeros where ``cond["unconditional"]`` is true.

    Raises ValueError if the two differ in any axis but the last.
    """
    if cond is None or "concat" not in cond:
        return x
    extra = cond["concat"].astype(x.dtype)
    require(
        extra.shape[:-1] == x.shape[:-1], "cond['concat'].shape", extra.shape, f"{x.shape[:-1]} and channels"
    )
    if "unconditional" in cond:
        hidden = cond["unconditional"].reshape((-1,) + (1,) * (x.ndim - 1))
        extra = jnp.where(hidden, jnp.zeros_like(extra), extra)
    return jnp.concatenate([x, extra], axis=-1)


def vector_condition(
    cond: Cond | None, size: int, batch: Size
) -> tuple[Float[Array, "b k"], Bool[Array, "b"]]:
    """``cond["vector"]`` and where it counts: everywhere unless ``cond["given"]`` or "unconditional" say no.

    Without a vector it counts nowhere. Raises ValueError for another shape than (batch, size).
    """
    if cond is None or "vector" not in cond:
        return jnp.zeros((batch, size)), jnp.zeros(batch, bool)
    vector = cond["vector"]
    require(vector.shape == (batch, size), "cond['vector'].shape", vector.shape, f"({batch}, {size})")
    given = jnp.asarray(cond.get("given", True)) & ~jnp.asarray(cond.get("unconditional", False))
    return vector, jnp.broadcast_to(given, (batch,))


class ConditionEmbedding(nn.Module):
    """What conditions every block: ``silu(mlp(features(time)) + table[label] + mlp(vector))``, in float32.

    ``num_classes=0`` leaves labels out. The table has ``num_classes + 1`` rows, the last for "no label"
    (Ho & Salimans 2022). ``vector_size=0`` leaves vectors out; a learned vector, from N(0, 1), stands for the
    embedding of one that is not given. Source: Dhariwal & Nichol 2021, section 2; Peebles & Xie 2023,
    section 3.2.
    """

    features: int
    time_features: int
    num_classes: int = 0
    time_embedding: str = "sinusoidal"
    time_scale: float | None = None
    time_shift: float = 0.0
    vector_size: int = 0

    @nn.compact
    def __call__(self, time: Float[Array, "b"], cond: Cond | None) -> Float[Array, "b e"]:
        """Embed the time, the label and the vector of each sample."""
        h = time_features(time, self.time_features, self.time_embedding, self.time_scale, self.time_shift)
        h = dense(self.features, name="time_in")(h)
        h = dense(self.features, name="time_out")(nn.silu(h))
        if self.num_classes:
            rows = label_rows(cond, self.num_classes, time.shape[0])
            # Unit variance: of the size of the time embedding, so that neither drowns the other.
            init = nn.initializers.normal(1.0)
            h += nn.Embed(self.num_classes + 1, self.features, embedding_init=init, name="label")(rows)
        if self.vector_size:
            vector, given = vector_condition(cond, self.vector_size, time.shape[0])
            own = dense(self.features, name="vector_in")(vector)
            own = dense(self.features, name="vector_out")(nn.silu(own))
            null = self.param("vector_null", nn.initializers.normal(1.0), (self.features,))
            h += jnp.where(given[:, None], own, null)
        return jax.nn.silu(h)


def check_time(time: Array, batch: Size) -> None:
    """Raise ValueError unless there is one time for each sample."""
    require(time.shape == (batch,), "time.shape", time.shape, f"({batch},), one time a sample of x")
