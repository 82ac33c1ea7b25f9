"""A sample depends on its key alone: not on the batch, the devices, the backend, or the schedule's name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffax import EDM, VE, VP, bind, gaussian_denoiser, grids, mixture_denoiser, sample
from diffax.processes import marginal
from diffax.samplers import (
    chain,
    ddim,
    ddpm,
    dpmpp_2m,
    euler_maruyama,
    heun,
    inpaint,
    langevin,
    probability_flow,
)
from diffax.samplers import compile as compile_sampler
from diffax.training import make_mesh

PROCESS = VP()
DENOISE = mixture_denoiser(PROCESS, [0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], [0.05, 0.1])
SAMPLERS = {
    "ddim": ddim(),
    "ddpm": ddpm(),
    "heun": heun(churn=5.0),
    "euler_maruyama": euler_maruyama(),
    "dpmpp_2m_sde": dpmpp_2m(eta=1.0),
    "predictor_corrector": chain(langevin(step_size="sample"), ddpm()),
    "probability_flow": probability_flow(),
    "inpaint": inpaint(ddpm(), jnp.zeros((1, 2)), jnp.array([[True, False]]), n_resample=2),
}


def run(keys, sampler, n=12):
    return sample(keys, DENOISE, PROCESS, sampler, grids.log_snr(PROCESS, n), shape=(2,)).x


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
class TestPerSampleKeys:
    def test_batch_of_16_is_part_of_a_batch_of_64(self, sampler):
        keys = jax.random.split(jax.random.key(0), 64)
        whole = jax.jit(lambda k: run(k, sampler))(keys)
        part = jax.jit(lambda k: run(k, sampler))(keys[:16])
        np.testing.assert_allclose(part, whole[:16], atol=1e-5)

    def test_one_device_eight_devices_and_pmap_agree(self, sampler):
        assert jax.device_count() == 8
        keys = jax.random.split(jax.random.key(1), 32)
        plain = compile_sampler(lambda k: run(k, sampler))(keys)
        spread = compile_sampler(lambda k: run(k, sampler), mesh=make_mesh())(keys)
        mapped = compile_sampler(lambda k: run(k, sampler), backend="pmap")(keys)
        assert len(spread.sharding.device_set) == 8
        np.testing.assert_allclose(spread, plain, atol=1e-5)
        np.testing.assert_allclose(mapped, plain, atol=1e-5)


def test_batch_mean_step_sizes_do_couple_samples():
    """The parity option is what the default must not be."""
    keys = jax.random.split(jax.random.key(0), 64)
    sampler = chain(langevin(step_size="batch"), ddpm())
    assert float(jnp.max(jnp.abs(run(keys[:16], sampler) - run(keys, sampler)[:16]))) > 1e-3


def test_pmap_with_parameters_conditions_and_a_path():
    def fn(keys, labels, scale):
        def denoise(x, t, cond):
            return scale * DENOISE(x, t, None) + 0.0 * cond["label"][:, None]

        return sample(
            keys, denoise, PROCESS, ddim(), grids.log_snr(PROCESS, 5), shape=(2,),
            cond={"label": labels}, return_path=True,
        )  # fmt: skip

    keys, labels = jax.random.split(jax.random.key(3), 16), jnp.arange(16.0)
    plain = compile_sampler(fn, batched=(0, 1))(keys, labels, 0.9)
    mapped = compile_sampler(fn, backend="pmap", batched=(0, 1))(keys, labels, jnp.asarray(0.9))
    assert plain.path.shape == mapped.path.shape == (16, 6, 2)
    np.testing.assert_allclose(mapped.path, plain.path, atol=1e-5)
    assert int(mapped.nfe) == int(plain.nfe) == 5
    np.testing.assert_array_equal(plain.path[:, -1], plain.x)


def test_a_batch_that_does_not_divide_is_refused():
    for options in ({"backend": "pmap"}, {"mesh": make_mesh()}):
        with pytest.raises(ValueError, match="batch"):
            compile_sampler(lambda k: run(k, ddim()), **options)(jax.random.split(jax.random.key(0), 12))
    with pytest.raises(ValueError, match="backend"):
        compile_sampler(lambda k: k, backend="xmap")


@pytest.mark.parametrize("sampler", [ddim(), heun(), dpmpp_2m()])
def test_a_schedule_may_be_swapped_after_training(sampler):
    """A preconditioned network sampled under VP and EDM at the same signal-to-noise ratios."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, c):
            h = nn.tanh(nn.Dense(16)(jnp.concatenate([x, c[:, None]], axis=1)))
            return nn.Dense(x.shape[1])(h)

    net = Net()
    params = net.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    x_init = jax.random.normal(jax.random.key(1), (16, 2))
    keys = jax.random.split(jax.random.key(2), 16)
    levels = marginal(PROCESS, grids.log_snr(PROCESS, 20)).log_snr

    def end(process):
        denoise = bind(
            lambda p, x, c, _: net.apply(p, x, c), params,
            process=process, output="F", sigma_data=0.5, time_input="c_noise",
        )  # fmt: skip
        grid = process.time(levels)
        start = process.alpha(grid[0]) / PROCESS.alpha(1.0) * x_init
        x = sample(keys, denoise, process, sampler, grid, x_init=start).x
        return x / process.alpha(grid[-1])

    wide = EDM(t_min=1e-3, t_max=200.0)
    np.testing.assert_allclose(end(wide), end(PROCESS), atol=1e-5 * float(jnp.max(jnp.abs(end(PROCESS))) + 1))


def test_ddim_with_eta_one_is_the_bridge():
    keys = jax.random.split(jax.random.key(5), 32)
    np.testing.assert_allclose(run(keys, ddim(eta=1.0)), run(keys, ddpm()), atol=1e-5)


def test_memory_is_flat_in_steps():
    keys = jax.random.split(jax.random.key(0), 256)

    def temporary(n):
        grid = grids.log_snr(PROCESS, n)
        fn = jax.jit(lambda k, g: sample(k, DENOISE, PROCESS, ddpm(), g, shape=(2,)).x)
        return fn.lower(keys, grid).compile().memory_analysis().temp_size_in_bytes

    assert abs(temporary(500) - temporary(50)) <= 450 * 3 * 4  # the grid's own columns: index, t and s


def test_a_path_is_asked_for_by_name():
    keys = jax.random.split(jax.random.key(0), 4)
    out = sample(keys, DENOISE, PROCESS, ddpm(), grids.log_snr(PROCESS, 6), shape=(2,))
    assert out.path is None


def test_parameters_of_a_process_do_not_retrace():
    traces = []

    @jax.jit
    def end(process, keys):
        traces.append(1)
        denoise = gaussian_denoiser(process, 0.0, 1.0)
        return sample(keys, denoise, process, ddim(), grids.log_snr(process, 4), shape=(1,)).x

    keys = jax.random.split(jax.random.key(0), 3)
    for sigma_max in (10.0, 20.0, 40.0):
        end(VE(sigma_max=sigma_max), keys)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"keys": jax.random.key(0)}, "keys"),
        ({"keys": jnp.zeros((4, 2), jnp.uint32)}, "keys"),
        ({"shape": None}, "shape"),
        ({"x_init": jnp.zeros((4, 2))}, "x_init"),
        ({"shape": None, "x_init": jnp.zeros((3, 2))}, "x_init"),
        ({"grid": jnp.array([0.1, 0.5])}, "grid"),
        ({"grid": jnp.array([2.0, 0.5])}, "grid"),
    ],
)
def test_bad_input_is_named(change, field):
    given = {"keys": jax.random.split(jax.random.key(0), 4), "grid": grids.uniform(PROCESS, 3), "shape": (2,)}
    given |= change
    keys, grid = given.pop("keys"), given.pop("grid")
    with pytest.raises((ValueError, TypeError), match=field):
        sample(keys, DENOISE, PROCESS, ddim(), grid, **given)
