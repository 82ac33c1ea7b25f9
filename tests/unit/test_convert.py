"""What cannot be converted exactly is refused, with the field, the value and what is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.io import from_diffusers, to_diffusers
from diffax.models import NCSNpp, UNet

SMALL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
MODEL = UNet(channels=8, channel_multipliers=(1, 2), blocks_per_level=1, norm_groups=4, time_scale=1.0)


def init(model):
    x = jnp.zeros((1, 8, 8, 3))
    tree = jax.eval_shape(model.init, jax.random.key(0), x, jnp.zeros(1))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), tree)


@pytest.fixture(scope="module")
def weights():
    """Those of MODEL with attention at its second level, which is SMALL."""
    model = MODEL.clone(attention_levels=(False, True), head_size=8)
    config, arrays = to_diffusers(model, init(model), sample_size=8)
    assert config | SMALL == config
    return arrays


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "UNet2DConditionModel"),
        ("act_fn", "mish"),
        ("attention_head_dim", 5),
        ("attn_norm_num_groups", 2),
        ("block_out_channels", [8, 12]),
        ("center_input_sample", True),
        ("class_embed_type", "timestep"),
        ("down_block_types", ["DownBlock2D", "ResnetDownsampleBlock2D"]),
        ("down_block_types", ["DownBlock2D"]),
        ("downsample_padding", 2),
        ("downsample_type", "resnet"),
        ("mid_block_scale_factor", 1.4142),
        ("mid_block_type", None),
        ("norm_num_groups", None),
        ("resnet_time_scale_shift", "scale_shift"),  # its middle attention would have no norm
        ("resnet_time_scale_shift", "ada_group"),
        ("time_embedding_dim", 8),
        ("time_embedding_type", "fourier"),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("upsample_type", "resnet"),
        ("a_new_field", 1),
    ],
)
def test_fields_without_a_counterpart(weights, field, value):
    name = {"resnet_time_scale_shift": "attn_norm_num_groups", "a_new_field": "config"}.get(field, field)
    name = "resnet_time_scale_shift" if value == "ada_group" else name
    with pytest.raises(ValueError, match=f"{name}: got .*allowed: "):
        from_diffusers({**SMALL, field: value}, weights)


def test_ignored_fields(weights):
    extra = {"_diffusers_version": "0.0.4", "sample_size": 8, "num_train_timesteps": 1000}
    assert from_diffusers({**SMALL, **extra}, weights)[0] == from_diffusers(SMALL, weights)[0]


def test_weights_that_do_not_fit(weights):
    name = "conv_in.weight"
    with pytest.raises(ValueError, match=f"weights: got 'no {name}'"):
        from_diffusers(SMALL, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(ValueError, match=r"weights: got 'unexpected skip_conv\.weight'"):
        from_diffusers(SMALL, {**weights, "skip_conv.weight": weights[name]})
    with pytest.raises(ValueError, match=r"shape of conv_in\.weight: got \(3, 8, 3, 3\)"):
        from_diffusers(SMALL, {**weights, name: weights[name].swapaxes(0, 1)})
    with pytest.raises(ValueError, match=r"dtype of conv_in\.weight: got 'float64'"):
        from_diffusers(SMALL, {**weights, name: weights[name].astype(np.float64)})
    twice = weights["mid_block.attentions.0.to_q.bias"]
    with pytest.raises(ValueError, match=r"weights: got .*one name for each array"):
        from_diffusers(SMALL, {**weights, "mid_block.attentions.0.query.bias": twice})


def test_half_precision_weights_become_float32(weights):
    half = {name: value.astype(jnp.bfloat16) for name, value in weights.items()}
    _, params = from_diffusers(SMALL, half)
    kernel = params["stem"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), half["conv_in.weight"].astype(np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_groups", None),  # would be 2 groups of 8 channels, 4 of 16
        ("patch_size", 2),
        ("resample", "pool"),
        ("rescale_skip", True),
        ("time_embedding", "fourier"),
        ("time_scale", None),
        ("heads", 2),  # of two sizes
    ],
)
def test_networks_without_a_counterpart(field, value):
    model = MODEL.clone(**{field: value}, attention_levels=(True, True))
    with pytest.raises(ValueError, match=f"{field}: got .*allowed: "):
        to_diffusers(model, init(model), sample_size=8)


def test_other_arguments_of_an_export():
    params = init(MODEL)
    with pytest.raises(ValueError, match="sample_size: got 9"):
        to_diffusers(MODEL, params, sample_size=9)
    with pytest.raises(ValueError, match="params: got"):
        to_diffusers(MODEL.clone(blocks_per_level=2), params, sample_size=8)
    with pytest.raises(ValueError, match="params: got"):
        to_diffusers(MODEL, {"dense": {"kernel": np.zeros((2, 2))}}, sample_size=8)
    other = NCSNpp(channels=8, channel_multipliers=(1, 2), blocks_per_level=1, attention_levels=())
    with pytest.raises(ValueError, match="model: got 'NCSNpp'"):
        to_diffusers(other, init(other), sample_size=8)
    config, _ = to_diffusers(MODEL, params, sample_size=(8, 16))
    assert config["sample_size"] == [8, 16]


def test_heads_of_one_size_are_exported():
    model = MODEL.clone(heads=2)  # in the middle alone, of 16 channels
    assert to_diffusers(model, init(model), sample_size=8)[0]["attention_head_dim"] == 8
