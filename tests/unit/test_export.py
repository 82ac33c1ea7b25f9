"""Files that leave the library: parameters, and samplers that run where only JAX is installed."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import EDM, VE, FromTable, bind, gaussian_denoiser, grids, tables
from diffax.io import (
    export_sampler,
    load_params,
    load_sampler,
    read_tensors,
    sampling_function,
    save_params,
    seed_keys,
)
from diffax.models import UNet
from diffax.samplers import (
    annealed_langevin,
    chain,
    ddpm,
    dpmpp_2m,
    euler_maruyama,
    heun,
    langevin,
)

ONLY_JAX = """
import sys
import jax, numpy as np
folder = sys.argv[1]
for name, sizes in (("heun", (1, 3)), ("ddpm", (3,))):
    call = jax.export.deserialize(bytearray(open(f"{folder}/{name}.jaxexport", "rb").read())).call
    for b in sizes:
        labels = np.arange(b, dtype=np.int32) - 1
        images = call(np.arange(b, dtype=np.uint32), labels, np.float32(2.0))
        np.save(f"{folder}/{name}-{b}.npy", images)
assert not {"flax", "diffax", "optax", "jaxtyping"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def samplers():
    """Guided sampling with a small U-Net of random weights, under two processes."""
    model = UNet(8, (1, 2), 1, attention_levels=(False, True), num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes)

    def apply(params, x, time, cond):
        return model.apply({"params": params}, x, time, cond)

    table = FromTable(tables.linear(1000))
    edm = bind(apply, params, process=EDM(), output="F", sigma_data=0.5, time_input="c_noise")
    vp = bind(apply, params, process=table, output="x0", time_input="t")
    grid = grids.karras(EDM(), 4, final="zero")
    return {
        "heun": sampling_function(edm, EDM(), heun(), grid, (8, 8, 1), labels=True),
        "ddpm": sampling_function(vp, table, ddpm(), grids.trailing(table, 4), (8, 8, 1), labels=True),
    }


@pytest.fixture(scope="module")
def exported(samplers, tmp_path_factory):
    """A folder with both."""
    folder = tmp_path_factory.mktemp("exported")
    for name, fn in samplers.items():
        export_sampler(folder / f"{name}.jaxexport", fn, metadata={"sampler": name, "steps": 4})
    return folder


def arguments(b):
    return jnp.arange(b, dtype=jnp.uint32), jnp.arange(b, dtype=jnp.int32) - 1, jnp.float32(2.0)


@pytest.mark.slow
def test_a_process_that_imports_only_jax_draws_the_same_samples(samplers, exported):
    command = [sys.executable, "-c", ONLY_JAX, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=exported)
    assert done.returncode == 0, done.stderr
    for name, fn in samplers.items():
        original = np.asarray(jax.jit(fn)(*arguments(3)))
        size = np.abs(original).max()
        assert original.std(axis=0).max() > 0.1  # the three are not the same image
        for path in exported.glob(f"{name}-*.npy"):
            found = np.load(path)
            np.testing.assert_allclose(found, original[: len(found)], rtol=0, atol=1e-6 * size)
    assert {path.name for path in exported.glob("*.npy")} == {"heun-1.npy", "heun-3.npy", "ddpm-3.npy"}


def test_the_loaded_function_and_what_it_says(samplers, exported):
    generate, metadata = load_sampler(exported / "heun.jaxexport")
    assert metadata["sample_shape"] == [8, 8, 1]
    assert metadata["batch_size"] is None
    assert metadata["platforms"] == ["cpu", "cuda", "tpu"]
    assert metadata["jax_version"] == jax.__version__
    assert metadata["about"] == {"sampler": "heun", "steps": 4}
    unguided, guided = generate([5, 6], [-1, 2]), generate([5, 6], [-1, 2], guidance=3.0)
    np.testing.assert_allclose(guided[0], unguided[0], atol=1e-5)  # without a label there is no guidance
    assert np.abs(guided[1] - unguided[1]).max() > 0.01
    np.testing.assert_allclose(generate([5, 6]), generate([5, 6], [-1, -1]), atol=1e-6)
    with pytest.raises(ValueError, match=r"labels\.shape: got \(1,\)"):
        generate([5, 6], [2])
    with pytest.raises(ValueError, match=r"seeds\.shape: got \(\)"):
        generate(np.array(5))


@pytest.mark.parametrize(
    ("process", "sampler"),
    [
        (EDM(), heun(churn=4.0)),
        (EDM(), dpmpp_2m(eta=1.0)),
        (VE(0.01, 50.0), chain(langevin(snr=0.1), euler_maruyama())),
        (VE(0.01, 50.0), annealed_langevin(0.1)),
    ],
    ids=["heun", "dpmpp_2m", "predictor_corrector", "annealed_langevin"],
)
def test_every_solver_takes_any_number_of_seeds(tmp_path, process, sampler):
    denoise = gaussian_denoiser(process, jnp.zeros(3), jnp.eye(3))
    fn = sampling_function(denoise, process, sampler, grids.log_snr(process, 3), (3,))
    export_sampler(tmp_path / "a", fn, platforms=("cpu",))
    generate, _ = load_sampler(tmp_path / "a")
    both = jax.jit(fn)(*arguments(2))
    np.testing.assert_allclose(generate([0, 1]), both, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(generate([1]), both[1:], rtol=1e-5, atol=1e-5)


def test_a_fixed_batch(tmp_path):
    def fn(seeds, labels, guidance):  # needs the size as a number
        rows = [jax.random.normal(key, (2,)) for key in seed_keys(seeds)]
        return guidance * jnp.stack(rows)

    with pytest.raises(ValueError, match=r"batch_size: got None"):
        export_sampler(tmp_path / "a", fn)
    assert not list(tmp_path.iterdir())
    export_sampler(tmp_path / "a", fn, batch_size=2, platforms=("cpu",))
    generate, _ = load_sampler(tmp_path / "a")
    expected = 2 * jax.random.normal(jax.random.key(9), (2,))
    np.testing.assert_allclose(generate([4, 9], guidance=2.0)[1], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"seeds\.shape: got \(3,\), allowed: a vector of 2"):
        generate([1, 2, 3])


def test_what_is_no_sampler(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(ValueError, match="output of fn: got"):
        export_sampler(path, lambda seeds, labels, guidance: guidance)
    with pytest.raises(ValueError, match="metadata: got"):
        export_sampler(path, lambda seeds, labels, guidance: seeds, metadata={"grid": object()})
    export_sampler(path, lambda seeds, labels, guidance: seeds * guidance, platforms=("cpu",))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="sha256: got"):
        load_sampler(path)
    path.with_name("a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json: got"):
        load_sampler(path)
    path.with_name("a.json").unlink()
    with pytest.raises(ValueError, match="path: got"):
        load_sampler(path)


def test_parameters_come_back_as_they_were(tmp_path):
    params = {
        "stem": {"kernel": jnp.arange(6.0).reshape(2, 3).astype(jnp.bfloat16)},
        "scale": np.float32(2.0) * np.ones((3, 2), np.float32).T,  # not contiguous
        "count": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float16),
    }
    save_params(tmp_path / "a.safetensors", params, {"step": "5"})
    found, metadata = load_params(tmp_path / "a.safetensors")
    assert metadata == {"step": "5"}
    assert list(read_tensors(tmp_path / "a.safetensors")[0]) == sorted(
        ["stem/kernel", "scale", "count", "empty"]
    )
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_an_array_in_another_order_of_memory(tmp_path):
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    save_params(tmp_path / "a", {"w": np.asfortranarray(array)})
    np.testing.assert_array_equal(load_params(tmp_path / "a")[0]["w"], array)


@pytest.mark.parametrize(
    "bad", [{}, {"a/b": np.zeros(1)}, {"a": [np.zeros(1)]}, {3: np.zeros(1)}, {"a": 1.0}]
)
def test_parameters_that_have_no_names(tmp_path, bad):
    with pytest.raises(ValueError, match=r"params|key"):
        save_params(tmp_path / "a", bad)
    assert not list(tmp_path.iterdir())


def test_bad_files_of_parameters(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="path: got"):
        load_params(path)
    save_params(path, {"a": np.zeros(3, np.float32)})
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"", json.dumps({}).encode(), b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="allowed: a whole safetensors file"):
            load_params(path)
    with pytest.raises(ValueError, match="metadata"):
        save_params(path, {"a": np.zeros(3)}, {"step": 5})
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1), "a/b": np.zeros(1)}, path)
    with pytest.raises(ValueError, match="name of an array"):
        load_params(path)
