"""Networks of another library give its outputs here, on numbers that it produced (see peers/)."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from oracle.peers.make_diffusers_unets import CASES, inputs, random_weights

from diffax import FromTable, bind, grids, tables
from diffax.io import from_diffusers, load_diffusers, read_tensors, save_diffusers, to_diffusers, write_json
from diffax.io.weights import write_tensors

PEER = np.load(Path(__file__).parent / "peers" / "diffusers_unets.npz")
SHAPES = json.loads(str(PEER["meta"]))["shapes"]
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def peer_case(name):
    """Configuration and weights, then x (b, h, w, c), steps, cond and the peer's output."""
    config, height, width = CASES[name]
    x, steps, labels = inputs(name, config, height, width)
    cond = None if labels is None else {"label": labels}
    weights = random_weights(SHAPES[name])
    call = (x.transpose(0, 2, 3, 1), steps.astype(np.float32), cond)
    return config, weights, call, PEER[name].transpose(0, 2, 3, 1)


@pytest.fixture(scope="module", params=CASES)
def imported(request):
    """A case and our network of it."""
    config, weights, call, theirs = peer_case(request.param)
    model, params = from_diffusers(config, weights)
    return config, weights, call, theirs, model, params


def test_outputs_are_the_peers(imported):
    *_, call, theirs, model, params = imported
    x, steps, cond = call
    ours = jax.jit(model.apply)({"params": params}, x, steps, cond)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_there_and_back_is_exact(imported):
    config, weights, _, _, model, params = imported
    sine_first = not config.get("flip_sin_to_cos", True)
    exported, arrays = to_diffusers(model, params, sample_size=32, sine_first=sine_first)
    assert arrays.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(arrays[name], value)
    defaults = {"act_fn": "silu"} if "act_fn" in config else {}
    assert exported | config | defaults == exported | {"sample_size": config["sample_size"]}
    again, params_again = from_diffusers(exported, arrays)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, params_again, params)


def test_the_other_order_of_time_features():
    """Exported with the cosines first, the network is the same."""
    config, weights, call, theirs = peer_case("no_attention")
    exported, arrays = to_diffusers(*from_diffusers(config, weights), sample_size=16)
    assert exported["flip_sin_to_cos"]
    model, params = from_diffusers(exported, arrays)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, *call), theirs, atol=1e-4)


@pytest.mark.parametrize("subfolder", [".", "unet"])
def test_folders_and_old_names(tmp_path, subfolder):
    config, weights, _, _ = peer_case("heads")
    model, params = from_diffusers(config, weights)
    save_diffusers(tmp_path / subfolder, model, params, sample_size=16)
    found, read = load_diffusers(tmp_path)
    assert found == model
    jax.tree.map(np.testing.assert_array_equal, read, params)

    path = tmp_path / subfolder / "diffusion_pytorch_model.safetensors"
    tensors, metadata = read_tensors(path)
    assert metadata == {"format": "pt"}
    old = {}
    for name, value in tensors.items():
        for new, former in OLD_NAMES.items():
            name = name.replace(f".{new}.", f".{former}.")
        old[name] = value
    assert old.keys() != tensors.keys()
    write_tensors(path, old)
    jax.tree.map(np.testing.assert_array_equal, load_diffusers(tmp_path)[1], params)


def test_bound_as_a_denoiser_under_its_table():
    """x0 = (x - sigma eps) / alpha with the peer's eps at the times of its steps."""
    config, weights, (x, steps, _), eps = peer_case("defaults")
    model, params = from_diffusers(config, weights)
    process = FromTable(tables.linear(1000))

    def apply(params, x, time, cond):
        return model.apply({"params": params}, x, time, cond)

    denoise = bind(apply, params, process=process, output="eps", time_input="step")
    times = grids.from_indices(process, [int(i) for i in steps[::-1]])[:-1][::-1]
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[steps.astype(int)].reshape(-1, 1, 1, 1)
    expected = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    ours = jax.jit(denoise)(x, times)
    np.testing.assert_allclose(ours * np.sqrt(alpha_bar), expected * np.sqrt(alpha_bar), atol=1e-4)


def test_labels():
    """Nobody's label is the time alone; a class that means no label becomes it; a trained row is exported."""
    config, weights, (x, steps, _), theirs = peer_case("classes")
    model, params = from_diffusers(config, weights)
    assert model.num_classes == 5
    assert not np.any(params["condition"]["label"]["embedding"][5])

    null_model, null_params = from_diffusers(config, weights, null_label=True)
    assert null_model.num_classes == 4
    cond = {"label": np.array([1, 2]), "unconditional": np.array([False, True])}
    ours = jax.jit(null_model.apply)({"params": null_params}, x, steps, cond)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # whose labels are 1 and 4
    exported, arrays = to_diffusers(null_model, null_params, sample_size=8)
    assert exported["num_class_embeds"] == 5
    np.testing.assert_array_equal(arrays["class_embedding.weight"], weights["class_embedding.weight"])


def test_a_damaged_folder(tmp_path):
    with pytest.raises(ValueError, match=r"folder: got .*config\.json"):
        load_diffusers(tmp_path)
    config, weights, _, _ = peer_case("defaults")
    write_json(tmp_path / "config.json", config)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    write_tensors(path, weights)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"path: got .*whole safetensors"):
        load_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: got"):
        load_diffusers(tmp_path)
