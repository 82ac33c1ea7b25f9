"""The network and step that the benchmarks time on our side."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffax.models import UNet

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def make_unet(spec: Mapping[str, Any], dtype: str, **options: Any) -> tuple[UNet, Any, jax.Array]:
    """The model, its parameters, and a batch of noise."""
    base = spec["channels"][0]
    model = UNet(
        channels=base,
        channel_multipliers=tuple(c // base for c in spec["channels"]),
        blocks_per_level=spec["blocks"],
        attention_levels=tuple(spec["attention"]),
        middle_attention=True,
        dtype=DTYPES[dtype],
        **options,
    )
    x = jax.random.normal(
        jax.random.key(0), (spec["batch"], spec["size"], spec["size"], spec["image_channels"])
    )
    params = jax.jit(model.init)(jax.random.key(1), x, jnp.zeros(spec["batch"]))["params"]
    return model, params, x
