"""The methods by name: what moments each needs, which widths it aims at, and what it makes of a layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffax.models.decoder_lm import DecoderConfig, Layer
from experiments.modegpt import baselines, method
from experiments.modegpt.allocation import sizes_of, widths
from experiments.modegpt.method import Job

Targets = Callable[[DecoderConfig, Float[np.ndarray, "l 3"], int], tuple[Layer, ...]]
MakeLayer = Callable[[Job], tuple[Layer, dict[str, Any]]]


class Method(NamedTuple):
    """``needs``: names of moments; ``targets``: widths for the parts' shares; ``layer``: one layer at its
    target; ``turns``: whether the stream is turned, so that embedding and head change as well; ``parts``:
    whether parts of a layer may give up different shares."""

    needs: tuple[str, ...]
    targets: Targets
    layer: MakeLayer
    turns: bool = False
    parts: bool = False


def _same(make: Callable[[DecoderConfig, float], tuple[Layer, ...]]) -> Targets:
    """For methods that take the same share from every layer."""

    def targets(config: DecoderConfig, parts: np.ndarray, _: int) -> tuple[Layer, ...]:
        sizes = np.stack([sizes_of(config, layer) for layer in config.layers])
        return make(config, float((parts * sizes).sum() / sizes.sum()))

    return targets


METHODS = {
    "modegpt": Method(method.NEEDS, widths, method.compress_layer, parts=True),
    "slicegpt": Method(
        baselines.SLICE_NEEDS, _same(baselines.slice_targets), baselines.slice_layer, turns=True
    ),
    "svd_llm": Method(baselines.SVD_NEEDS, _same(baselines.svd_targets), baselines.svd_layer),
    "svd": Method((), _same(baselines.svd_targets), baselines.svd_layer),
    "magnitude": Method((), widths, baselines.magnitude_layer, parts=True),
    "random": Method(("units", "values"), widths, baselines.random_layer, parts=True),
}
