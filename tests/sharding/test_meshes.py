"""A run does not depend on the mesh it runs on: losses, samples, restored states; and what lies where."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from diffax import EDM, VP, bind, grids, sample
from diffax.data import digits, pipeline
from diffax.guidance import static_threshold
from diffax.io import CheckpointStore, in_batches
from diffax.losses import denoising_loss, weighting
from diffax.models import TENSOR_RULES, DiT, UNet
from diffax.processes import times
from diffax.samplers import heun
from diffax.training import (
    TrainState,
    abstract,
    bytes_per_device,
    create,
    data_shard,
    ema,
    init_net,
    make_mesh,
    make_train_step,
    parse_mesh,
    place_batch,
    train,
    tree_shardings,
)

PROCESS = EDM()
NETWORKS = {
    "unet": UNet(
        channels=16, channel_multipliers=(1, 2), blocks_per_level=1, heads=2, num_classes=10, scale_shift=True
    ),
    "transformer": DiT(patch_size=2, width=32, depth=2, heads=4, num_classes=10),
}
MESHES = [(8, 1, 1), (4, 2, 1), (2, 2, 2)]
STEPS = 20


def experiment(name, accumulate=1, **changes):
    """``(init, train_step, generate)`` of a small conditional network on the digits."""
    model = NETWORKS[name].clone(**changes)
    optimizer = optax.adam(1e-3)
    averages = {"slow": ema.constant(0.9)}

    def denoiser(params, process=PROCESS):
        def apply_fn(params, x, t, cond):
            return model.apply({"params": params}, x, t, cond)

        return bind(apply_fn, params, process=process, output="F", sigma_data=0.5, time_input="c_noise")

    def loss_fn(params, batch, key):
        result = denoising_loss(
            key, denoiser(params), PROCESS, batch["image"], cond={"label": batch["label"]},
            times=times.log_normal(-1.2, 1.2), weighting=weighting.edm(0.5),
        )  # fmt: skip
        return result.loss, {}

    def init():
        key, run_key = jax.random.split(jax.random.key(0))
        shapes = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)}
        params = model.init(key, *shapes)["params"]
        return TrainState.create(run_key, {"model": init_net(params, optimizer, averages)})

    @jax.jit
    def generate(params, keys, labels):
        # under VP and a threshold x has the size of the data all along: at sigma = 80 a rounding is 4e-6
        denoise = static_threshold()(denoiser(params, VP()))
        return sample(
            keys, denoise, VP(), heun(), grids.log_snr(VP(), 4, final="zero"),
            shape=(8, 8, 1), cond={"label": labels},
        ).x  # fmt: skip

    return init, make_train_step(loss_fn, optimizer, averages, accumulate=accumulate), generate


def run(name, sizes, steps=STEPS, changes=None, **options):
    init, step, _ = experiment(name, **(changes or {}))
    losses = []
    with pipeline(digits(), 32, seed=0) as data:
        state = train(
            init, step, data, num_steps=steps, log_every=1, mesh=make_mesh(*sizes), rules=TENSOR_RULES,
            hooks=[lambda _, metrics, state: losses.append(metrics["loss"])], **options,
        )  # fmt: skip
    return state, np.asarray(losses)


def host(state):
    """Every array of the networks, on the host."""
    return jax.tree.map(np.asarray, state.nets)


def largest_difference(a, b):
    return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module", params=["unet", pytest.param("transformer", marks=pytest.mark.slow)])
def single(request):
    """The name of a network, and its run on one device."""
    return request.param, *run(request.param, (1, 1, 1))


class TestMeshes:
    @pytest.mark.parametrize(
        "sizes",
        [pytest.param(sizes, marks=pytest.mark.slow) for sizes in MESHES],  # in CI: test_hosts, 2 x 2 x 2
        ids=str,
    )
    def test_losses_and_samples_are_those_of_one_device(self, single, sizes):
        name, alone, expected = single
        _, losses = run(name, sizes)
        assert len(losses) == STEPS
        np.testing.assert_allclose(losses, expected, atol=1e-4)
        assert expected[-5:].mean() < 0.95 * expected[:5].mean()  # not the agreement of a standstill
        _, _, generate = experiment(name)
        labels, key = np.arange(16) % 10, jax.random.key(5)
        # the same parameters on both meshes: samples must not differ by more than rounding
        params = alone.nets["model"].ema["slow"]
        spread = jax.device_put(params, tree_shardings(params, make_mesh(*sizes), TENSOR_RULES))
        one, many = (next(in_batches(generate, p, key, labels, 16)) for p in (params, spread))
        np.testing.assert_allclose(many, one, atol=1e-5)

    def test_restore_is_bit_for_bit_on_the_same_mesh_and_close_on_another(self, tmp_path):
        name, sizes = "transformer", (2, 2, 2)
        whole, _ = run(name, sizes, steps=6)
        with CheckpointStore(tmp_path) as store:
            run(name, sizes, steps=3, checkpoints=store)
            resumed, _ = run(name, sizes, steps=6, checkpoints=store)
        for a, b in zip(jax.tree.leaves(host(whole)), jax.tree.leaves(host(resumed)), strict=True):
            np.testing.assert_array_equal(a, b)
        init, _, _ = experiment(name)
        for other in ((1, 1, 1), (4, 2, 1), (1, 8, 1)):
            with CheckpointStore(tmp_path) as store:
                found = store.restore(abstract(init, make_mesh(*other), TENSOR_RULES))
            state, position = found
            assert largest_difference(host(state), host(whole)) <= 1e-6
            assert position["step"] == 6
            assert state.step.sharding.mesh.shape == dict(zip(("data", "fsdp", "tensor"), other, strict=True))

    @pytest.mark.parametrize("name", ["unet", pytest.param("transformer", marks=pytest.mark.slow)])
    def test_the_state_is_born_where_it_belongs(self, name):
        init, _, _ = experiment(name)
        alone, spread = (create(init, make_mesh(*s), TENSOR_RULES) for s in ((1, 1, 1), (2, 2, 2)))
        assert largest_difference(host(alone), host(spread)) <= 1e-6
        wanted = tree_shardings(jax.eval_shape(init), make_mesh(2, 2, 2), TENSOR_RULES)
        for leaf, sharding in zip(jax.tree.leaves(spread), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.slow
def test_remat_and_bfloat16_change_the_footprint_not_the_run():
    _, whole = run("transformer", (2, 2, 2), steps=4)
    state, losses = run("transformer", (2, 2, 2), steps=4, changes={"remat": True, "dtype": jnp.bfloat16})
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.nets["model"].params, state.nets["model"].ema))}
    assert kinds == {jnp.dtype(jnp.float32)}
    assert 0 < np.abs(losses - whole).max() < 0.02


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_one_device():
    runs = [run("transformer", sizes, steps=4, changes={"accumulate": 4}) for sizes in ((1, 1, 1), (2, 2, 2))]
    np.testing.assert_allclose(runs[1][1], runs[0][1], atol=1e-4)


def test_state_bytes_fall_with_the_number_of_devices():
    """Parameters, optimiser and averages of a network of which little is below the threshold."""

    def init():
        params = {"a": jnp.ones((256, 512)), "b": jnp.ones((64, 3, 3, 64)), "bias": jnp.ones(512)}
        net = init_net(params, optax.adam(1.0), {"slow": ema.constant(0.9)})
        return TrainState.create(jax.random.key(0), {"model": net})

    whole = bytes_per_device(create(init, make_mesh(1)))
    total = next(iter(whole.values()))
    for devices in (2, 4, 8):
        held = bytes_per_device(create(init, make_mesh(1, devices, 1)))
        assert len(held) == devices
        for size in held.values():
            assert size == pytest.approx(total / devices, rel=0.06)


class TestRules:
    def test_tactics(self):
        mesh = make_mesh(2, 2, 2)
        tree = {
            "qkv": {"kernel": jnp.zeros((64, 192))},
            "out": {"kernel": jnp.zeros((64, 64)), "bias": jnp.zeros(64)},
            "odd": {"kernel": jnp.zeros((63, 127))},
            "frozen": {"kernel": jnp.zeros((64, 512))},
            "plain": {"kernel": jnp.zeros((64, 512)), "tall": jnp.zeros((514, 63))},
        }
        rules = (("frozen/", "replicate"), ("qkv/", "column"), ("out/kernel$", "row"))
        found = jax.tree.map(lambda s: s.spec, tree_shardings(tree, mesh, rules))
        assert found["qkv"]["kernel"] == PartitionSpec("fsdp", "tensor")
        assert found["out"]["kernel"] == PartitionSpec("tensor", "fsdp")
        assert found["out"]["bias"] == PartitionSpec(None)  # below the threshold
        assert found["plain"]["kernel"] == PartitionSpec(None, "fsdp")
        assert found["plain"]["tall"] == PartitionSpec("fsdp", None)
        assert found["odd"]["kernel"] == PartitionSpec(None, None)  # nothing comes out even
        assert found["frozen"]["kernel"] == PartitionSpec(None, None)

    def test_one_rule_places_parameters_optimiser_and_averages_alike(self):
        init, _, _ = experiment("transformer")
        shardings = tree_shardings(jax.eval_shape(init), make_mesh(2, 2, 2), TENSOR_RULES)
        net = shardings.nets["model"]
        placed = [net.params, net.ema["slow"], net.opt_state[0].mu, net.opt_state[0].nu]
        specs = {tree["block0"]["attention"]["qkv"]["kernel"].spec for tree in placed}
        assert specs == {PartitionSpec(None, "tensor")}  # 32 x 96 numbers are below the threshold of fsdp

    @pytest.mark.parametrize(
        ("make", "field"),
        [
            (lambda: parse_mesh("8x1"), "mesh"),
            (lambda: parse_mesh("-1x-1x1"), "mesh"),
            (lambda: parse_mesh("0x1x1"), "mesh"),
            (lambda: parse_mesh("data=2,model=4"), "mesh"),
            (lambda: parse_mesh("data=2,fsdp"), "mesh"),
            (lambda: parse_mesh(""), "mesh"),
            (lambda: make_mesh(9), "devices"),
            (lambda: make_mesh(-1, 3, 1), "mesh"),
            (lambda: make_mesh(-2, 1, 1), "mesh"),
            (lambda: tree_shardings({}, make_mesh(), (("a", "diagonal"),)), "tactic"),
            (lambda: place_batch({"x": np.zeros((12, 2))}, make_mesh()), "batch"),
        ],
    )
    def test_bad_input_is_named(self, make, field):
        with pytest.raises(ValueError, match=field):
            make()

    def test_sizes(self):
        assert parse_mesh("-1x2x1") == (-1, 2, 1)
        assert parse_mesh("fsdp=-1,tensor=2") == (1, -1, 2)
        assert dict(make_mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
        assert data_shard(make_mesh(2, 2, 2)) == (0, 1)
