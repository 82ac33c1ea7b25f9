"""Networks and schedulers of MONAI give its outputs here, on numbers that it produced (see peers/)."""

import json
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle.peers.make_diffusers_unets import random_weights
from oracle.peers.make_monai_unets import (
    CASES,
    FLOW,
    FLOW_STEPS,
    PATHS,
    SCHEDULES,
    inputs,
    prediction,
    start,
)

from diffax import FromTable, grids, sample
from diffax.io import from_monai, load_monai, monai_process, write_json
from diffax.io.weights import write_tensors
from diffax.models import UNet, UNet3D
from experiments.build import make_sampler

PEER = np.load(Path(__file__).parent / "peers" / "monai_unets.npz")
SHAPES = json.loads(str(PEER["meta"]))["shapes"]
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def peer_case(name):
    """Arguments and weights of a network."""
    return CASES[name][0], random_weights(SHAPES[name])


@cache
def imported(name):
    """Our network of a case."""
    return from_monai(*peer_case(name))


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_peers(name):
    model, params = imported(name)
    x, steps, labels = inputs(name, *CASES[name])
    cond = None if labels is None else {"label": jnp.asarray(labels)}
    assert type(model) is (UNet if x.ndim == 4 else UNet3D)
    ours = fast_jit(model.apply)({"params": params}, jnp.moveaxis(x, 1, -1), jnp.asarray(steps, float), cond)
    np.testing.assert_allclose(jnp.moveaxis(ours, -1, 1), PEER[name], rtol=0, atol=1e-4)


def same(one, other):
    """Equal networks with equal parameters."""
    assert one[0] == other[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


def test_other_names_of_the_same_weights():
    """Those of the package "generative"; the last map that MONAI 1.4 has and leaves out; a class for none."""
    config, weights = peer_case("attention")
    old = {}
    for name, value in weights.items():
        name = name.replace(".attn.out_proj.", ".proj_attn.").replace(".attn.to_", ".to_")
        old[name.replace("upsampler.postconv.", "upsampler.conv.")] = value
    assert len(old.keys() - weights.keys()) == 50
    same(from_monai(config, old), imported("attention"))

    config, weights = peer_case("blocks")
    more = weights | {f"middle_block.attention.attn.out_proj.{k}": np.ones(16) for k in ("weight", "bias")}
    same(from_monai(config, more), imported("blocks"))

    config, weights = peer_case("volume")
    model, params = from_monai(config, weights, null_label=True)
    assert model.num_classes == 2
    table = params["condition"]["label"]["embedding"]
    np.testing.assert_array_equal(table, weights["class_embedding.weight"])


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_files(tmp_path, kind):
    config, weights = peer_case("volume")
    path = tmp_path / f"unet.{kind}"
    np.savez(path, **weights) if kind == "npz" else write_tensors(path, weights)
    write_json(tmp_path / "unet.json", {"_target_": "monai.networks.nets.DiffusionModelUNet", **config})
    same(load_monai(path, tmp_path / "unet.json"), imported("volume"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"path: got .*allowed: a whole"):
        load_monai(path, config)
    with pytest.raises(ValueError, match=r"path: got .*allowed: a state dict saved as"):
        load_monai(tmp_path / "unet.pt", config)
    with pytest.raises(ValueError, match=r"config: got .*allowed: a JSON file"):
        load_monai(path, tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_target_", "monai.networks.nets.ControlNet"),
        ("_target_", "@network"),
        ("with_conditioning", True),
        ("cross_attention_dim", 8),
        ("spatial_dims", 1),
        ("in_channels", "@channels"),
        ("channels", [8, 12]),
        ("channels", []),
        ("norm_num_groups", 3),
        ("num_res_blocks", [1, 2]),
        ("num_res_blocks", [1]),
        ("num_res_blocks", 0),
        ("attention_levels", [True]),
        ("attention_levels", [0, 1]),
        ("num_head_channels", 5),
        ("num_head_channels", [8, 4]),
        ("num_class_embeds", 0),
        ("a_new_argument", 1),
    ],
)
def test_arguments_without_a_counterpart(field, value):
    shown = {"norm_num_groups": "channels", "a_new_argument": "config"}.get(field, field)
    levels = {} if field == "attention_levels" else {"attention_levels": [True, True]}
    with pytest.raises(ValueError, match=f"^{shown}: got .*allowed: "):
        from_monai({**CASES["blocks"][0], **levels, field: value}, {})


def test_weights_that_do_not_fit():
    config, weights = peer_case("blocks")
    name = "middle_block.attention.attn.qkv.bias"
    with pytest.raises(ValueError, match=r"weights: got 'no middle_block\.attention\.attn\.to_k\.bias"):
        from_monai(config, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(ValueError, match=r"weights: got 'unexpected .*\.attn\.qkv\.bias"):
        from_monai({**config, "use_combined_linear": False}, weights)
    with pytest.raises(ValueError, match=r"config: got .*in_channels"):
        from_monai({"spatial_dims": 2}, weights)
    with pytest.raises(ValueError, match="num_class_embeds: got 0"):
        from_monai(config, weights, null_label=True)


@pytest.mark.parametrize("name", [*SCHEDULES, "cosine of 1.4"])
def test_tables_are_the_peers(name):
    """Theirs are products in float32: a thousand factors leave a few units of the fifth digit."""
    kind, old = name.removesuffix(" of 1.4"), name.endswith("1.4")
    schedule = monai_process({"schedule": kind, **SCHEDULES[kind]}, before_1_5=old)
    ours = np.exp(-np.asarray(schedule.process.integrated_beta))  # with a one in front, clean data
    theirs = PEER[name] if old else np.concatenate([[1.0], PEER[name]])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    times = jnp.arange(1, len(ours)) / (len(ours) - 1)
    time_input = schedule.time_input
    if old:  # the entry i + 1 of ours is their step i + 1, not i
        np.testing.assert_allclose(time_input(schedule.process, times), np.arange(1, len(ours)), rtol=1e-5)
    else:
        assert time_input == "step"


def numpy_network(params, x, time, cond):
    return prediction(x, time[:, None, None, None], jnp)


@pytest.mark.parametrize("name", PATHS)
def test_every_step_of_ddim_arrives_where_the_peer_does(name):
    schedule = monai_process(PATHS[name], "DDIMScheduler")
    last = PATHS[name]["num_train_timesteps"] - 1
    grid = grids.from_indices(schedule.process, range(last, -1, -1))
    np.testing.assert_allclose(arrive(schedule, grid), PEER[f"path of {name}"], rtol=1e-4, atol=2e-5)


def test_a_rectified_flow_arrives_where_the_peer_does():
    schedule = monai_process(FLOW, "RFlowScheduler")
    assert isinstance(schedule.bounds, type(None))
    grid = jnp.linspace(1.0, 0.0, FLOW_STEPS + 1)
    np.testing.assert_allclose(arrive(schedule, grid), PEER["path of flow"], rtol=1e-4, atol=1e-5)


def arrive(schedule, grid):
    """The end of a path from the peer's start."""
    sampler = make_sampler(schedule.sampler, schedule.process, len(grid) - 1)
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.asarray(start())
    denoise = schedule.denoiser(numpy_network, None)
    return fast_jit(lambda x: sample(keys, denoise, schedule.process, sampler, grid, x_init=x).x)(x)


def test_what_schedulers_are_called_and_clip():
    large = monai_process({"variance_type": "fixed_large", "clip_sample_max": 2, "prediction_type": "sample"})
    assert (large.sampler, large.output, large.bounds) == ("ddpm_large", "x0", (-1.0, 2.0))
    assert isinstance(large.process, FromTable)
    x = jnp.full((1, 2), 9.0)
    denoise = large.denoiser(lambda params, x, time, cond: x, None)
    np.testing.assert_array_equal(fast_jit(denoise)(x, jnp.ones(1)), 2.0)
    assert monai_process({"_target_": "monai.networks.schedulers.DDIMScheduler"}).sampler == "ddim"
    assert monai_process({"clip_sample": False}).bounds is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_target_", "PNDMScheduler"),
        ("schedule", "linear"),
        ("prediction_type", "score"),
        ("variance_type", "learned"),
        ("num_train_timesteps", "1000"),
        ("sig_range", 6),
        ("beta_end", "@end"),
    ],
)
def test_schedulers_without_a_counterpart(field, value):
    shown = {"_target_": "scheduler", "sig_range": "config"}.get(field, field)
    with pytest.raises(ValueError, match=f"^{shown}: got .*allowed: "):
        monai_process({field: value})
