"""The methods by name: what moments each needs, which widths it aims at, and what it makes of a layer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params
from experiments.modegpt import baselines, method
from experiments.modegpt.allocation import Allocation, widths
from experiments.modegpt.method import Options

Targets = Callable[[DecoderConfig, Float[np.ndarray, "l"], Allocation], tuple[Layer, ...]]
MakeLayer = Callable[
    [DecoderConfig, int, Params, Mapping[str, Moments], Layer, Options], tuple[Layer, dict[str, Any]]
]


class Method(NamedTuple):
    """``needs``: names of moments; ``targets``: widths for each layer's share; ``layer``: one layer at its
    target; ``turns``: whether the stream is turned, so that embedding and head change as well."""

    needs: tuple[str, ...]
    targets: Targets
    layer: MakeLayer
    turns: bool = False


def _same(make: Callable[[DecoderConfig, float], tuple[Layer, ...]]) -> Targets:
    """For methods that take the same share from every layer."""

    def targets(config: DecoderConfig, shares: np.ndarray, _: Allocation) -> tuple[Layer, ...]:
        return make(config, float(np.mean(shares)))

    return targets


METHODS = {
    "modegpt": Method(method.NEEDS, widths, method.compress_layer),
    "slicegpt": Method(
        baselines.SLICE_NEEDS, _same(baselines.slice_targets), baselines.slice_layer, turns=True
    ),
    "svd_llm": Method(baselines.SVD_NEEDS, _same(baselines.svd_targets), baselines.svd_layer),
    "svd": Method((), _same(baselines.svd_targets), baselines.svd_layer),
    "magnitude": Method((), widths, baselines.magnitude_layer),
    "random": Method(("units", "values"), widths, baselines.random_layer),
}
