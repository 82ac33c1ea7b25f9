"""Pairs of images to register: one image bent by a random smooth field, or two that belong together.

A made pair is an image and itself bent, ``fixed = warp(moving, flow)``, each with its own noise, so the flow
is known and the noise tells nothing of it. From a folder with a field for each (``config.data.fixed`` and
``config.data.moving``) pairs are read, and no flow is known.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.data import phantoms
from diffax.operators.warping import random_flow, warp, warp_labels
from diffax.training.step import Batch
from experiments.medical_survey.tasks.cases import PHANTOMS

HEAD = -0.9  # greys above this, 5 % of the range, are not air
LABELS = len(phantoms.TISSUES)


class Pairs(NamedTuple):
    """Images in [-1, 1], and what is known of them.

    ``moving(p + flow(p)) = fixed(p)`` up to noise, the flow in pixels; labels 0 (air, or nothing) to 6.
    """

    moving: Float[Array, "b h w 1"]
    fixed: Float[Array, "b h w 1"]
    flow: Float[Array, "b h w 2"] | None
    moving_labels: Int[Array, "b h w"] | None
    fixed_labels: Int[Array, "b h w"] | None

    @property
    def inside(self) -> Bool[Array, "b h w"]:
        """Where the fixed image shows something: a flow through air is nobody's concern."""
        return self.fixed[..., 0] > HEAD


def fields(config: ConfigDict) -> tuple[str, ...]:
    """What is read of a case: the images, and the labels where there are any."""
    data = config.data
    checks.require(data.dims == 2, "config.data.dims", data.dims, "2, for registration")
    both = bool(data.fixed) == bool(data.moving)
    checks.require(
        both, "config.data.fixed, config.data.moving", (data.fixed, data.moving), "both or neither"
    )
    if data.source == PHANTOMS:
        allowed = "'' with phantoms, whose pairs are made"
        checks.require(not data.fixed, "config.data.fixed", data.fixed, allowed)
        return (data.image, "tissue")
    images = (data.fixed, data.moving) if data.fixed else (data.image,)
    masks = ("mask_fixed", "mask_moving") if data.fixed else ("mask",)
    known = all((Path(data.source) / name).is_dir() for name in masks)
    return images + (masks if known else ())


def make_pairs(config: ConfigDict, cases: Batch, key: Key[Array, ""]) -> Pairs:
    """A pair of each case: as it was read, or with a flow and noise drawn from the key."""
    data = config.data
    if data.fixed:
        labels = [_labels(cases, "mask_moving"), _labels(cases, "mask_fixed")]
        return Pairs(cases[data.moving], cases[data.fixed], None, *labels)
    image, labels = cases[data.image], _labels(cases, "tissue" if "tissue" in cases else "mask")
    flow_key, *noise_keys = jax.random.split(key, 3)
    size = image.shape[1]
    low, high = (share * size for share in config.flow.longest)
    flow = random_flow(flow_key, len(image), image.shape[1:3], (low, high), config.flow.control)
    moving, fixed = (
        jnp.clip(clean + 2 * config.flow.noise * jax.random.normal(k, image.shape), -1, 1)
        for k, clean in zip(noise_keys, (image, warp(image, flow)), strict=True)
    )
    return Pairs(moving, fixed, flow, labels, None if labels is None else warp_labels(labels, flow, LABELS))


def _labels(cases: Batch, name: str) -> Int[Array, "b h w"] | None:
    """Tissues, or a mask's 0 and 1; None where there is none."""
    if name not in cases:
        return None
    found = jnp.asarray(cases[name])
    return (found[..., 0] if found.ndim == 4 else found).astype(jnp.int32)
