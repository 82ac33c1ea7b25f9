"""Networks of the EDM code base give its outputs here, on numbers that it produced (see peers/)."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from oracle.peers.make_diffusers_unets import random_weights
from oracle.peers.make_edm_unets import CASES, inputs

from diffax.io import from_edm

PEER = np.load(Path(__file__).parent / "peers" / "edm_unets.npz")
SHAPES = json.loads(str(PEER["meta"]))["shapes"]


def peer_weights(name):
    shapes = SHAPES[name]
    filters = {key: np.full(shape, 0.25, np.float32) for key, shape in shapes.items() if "resample_f" in key}
    return filters | random_weights({key: shape for key, shape in shapes.items() if key not in filters})


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_peers(name):
    weights = {f"model.{key}": value for key, value in peer_weights(name).items()}
    model, params = from_edm(CASES[name], weights)
    x, noise, labels = inputs(name, CASES[name])
    cond = None if labels is None else {"label": np.maximum(labels, 0), "unconditional": labels < 0}
    ours = jax.jit(model.apply)({"params": params}, x.transpose(0, 2, 3, 1), noise, cond)
    np.testing.assert_allclose(ours, PEER[name].transpose(0, 2, 3, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ddpmpp", "label_dim", 10),
        ("ddpmpp", "embedding_type", "fourier"),
        ("ddpmpp", "encoder_type", "residual"),
        ("ddpmpp", "resample_filter", [1, 3, 3, 1]),
        ("ddpmpp", "channel_mult_emb", 2),
        ("ddpmpp", "model_type", "VPPrecond"),
        ("adm", "channel_mult", [2, 4]),
        ("adm", "embedding_type", "positional"),
    ],
)
def test_networks_that_ours_is_not(name, field, value):
    shown = "config" if (name, field) == ("adm", "embedding_type") else field
    with pytest.raises(ValueError, match=f"{shown}: got .*allowed: "):
        from_edm({**CASES[name], field: value}, {})


def test_weights_that_do_not_fit():
    weights = peer_weights("adm")
    with pytest.raises(ValueError, match=r"weights: got 'no dec\.4x4_in0\.qkv\.bias'"):
        from_edm(CASES["adm"], {k: v for k, v in weights.items() if k != "dec.4x4_in0.qkv.bias"})
    name = "enc.4x4_down.conv0.resample_filter"
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        from_edm(CASES["adm"], {**weights, name: np.full((1, 1, 2, 2), 0.3)})
