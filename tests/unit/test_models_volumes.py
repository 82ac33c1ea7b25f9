"""The U-Net over volumes against the one over images, and its layers against numpy and scipy."""

from functools import cache, partial
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from diffax.models import UNet, UNet3D
from diffax.models.layers import depth_to_space, downsample, space_to_depth, standardize_groups, upsample
from experiments.build import make_model

# Compiling is most of what these tests cost; the least optimised code does for a few voxels.
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FIELDS = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "norm_groups": 2}
CONV = {**FIELDS, "attention_levels": (False, True), "heads": 2, "num_classes": 3}
POOL = {**FIELDS, "resample": "pool", "scale_shift": True, "middle_attention": False, "num_classes": 3}
COND = {"label": jnp.array([2, 0])}
TIME = jnp.array([0.3, 0.8])


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_params(model, x):
    """Parameters of a signal's size, none of them zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, TIME, COND)["params"]
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda s: rng.normal(float(len(s.shape) == 1), max(np.prod(s.shape[:-1]), 4) ** -0.5, s.shape).astype(
            np.float32
        ),
        shapes,
    )


@cache
def volume_network():
    """A network over volumes of three sizes, compiled once."""
    model, x = UNet3D(**CONV), normal(2, 4, 8, 6, 2)
    run = fast_jit(lambda params, x: model.apply({"params": params}, x, TIME, COND))
    return SimpleNamespace(model=model, x=x, params=random_params(model, x), run=run)


def test_the_output_has_the_size_of_the_volume_and_is_zero_at_initialisation():
    net = volume_network()
    tree = fast_jit(net.model.init)(jax.random.key(0), net.x, TIME, COND)["params"]
    output = net.run(tree, net.x)
    assert output.shape == net.x.shape
    np.testing.assert_array_equal(output, 0.0)


def test_every_gradient_is_finite_and_a_voxel_reads_its_whole_volume():
    """The gradient of one voxel of the output: attention carries it to every voxel of its own volume."""
    net = volume_network()

    def voxel(params, x):
        return net.model.apply({"params": params}, x, TIME, COND)[0, 1, 2, 3, 0]

    by_params, by_x = fast_jit(jax.grad(voxel, argnums=(0, 1)))(net.params, net.x)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(by_params))
    assert float(jnp.abs(by_x[0]).min()) > 0
    np.testing.assert_array_equal(by_x[1], 0.0)


@pytest.mark.parametrize(("fields", "axis"), [(CONV, 0), (POOL, 1)])
def test_of_equal_slices_it_makes_what_the_network_over_images_makes_of_one(fields, axis):
    """With kernels that do not reach across slices: means, variances, attention and halving are the same."""
    image = normal(2, 8, 4, 1)
    flat = random_params(UNet(**fields), image)
    expected = fast_jit(UNet(**fields).apply)({"params": flat}, image, TIME, COND)

    def widen(kernel):
        if kernel.ndim != 4:
            return kernel
        reach = kernel.shape[0] // 2
        return np.pad(np.expand_dims(kernel, axis), [(reach * (i == axis),) * 2 for i in range(5)])

    volume = np.repeat(np.expand_dims(image, 1 + axis), 6, 1 + axis)
    model = UNet3D(**fields)
    output = fast_jit(model.apply)({"params": jax.tree.map(widen, flat)}, volume, TIME, COND)
    expected = np.broadcast_to(np.expand_dims(expected, 1 + axis), volume.shape)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-4)


def test_it_treats_all_three_axes_alike():
    """Exchanging the axes of the volume and of every kernel exchanges those of the output."""
    net = volume_network()
    turn = (2, 0, 1)
    params = jax.tree.map(lambda k: k.transpose(*turn, 3, 4) if k.ndim == 5 else k, net.params)
    order = (0, *(1 + axis for axis in turn), 4)
    turned = net.run(params, net.x.transpose(order))
    np.testing.assert_allclose(turned, net.run(net.params, net.x).transpose(order), rtol=0, atol=2e-4)


def test_layers_over_voxels():
    x = normal(2, 4, 6, 8, 4)
    pooled = x.reshape(2, 2, 2, 3, 2, 4, 2, 4).mean(axis=(2, 4, 6))
    np.testing.assert_allclose(downsample(jnp.asarray(x), "pool"), pooled, atol=1e-6)
    repeated = x.repeat(2, 1).repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(upsample(jnp.asarray(x), "pool"), repeated)
    filtered = np.float64(x)
    for axis in (1, 2, 3):
        full = signal.upfirdn(np.array([1, 3, 3, 1]) / 8, filtered, axis=axis)
        filtered = full.take(range(2, 2 + x.shape[axis], 2), axis=axis)
    np.testing.assert_allclose(downsample(jnp.asarray(x), "fir"), filtered, atol=1e-6)
    groups = np.float64(x).reshape(2, -1, 2, 2)
    expected = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
    np.testing.assert_allclose(standardize_groups(jnp.asarray(x), 2), expected.reshape(x.shape), atol=1e-5)


def test_cubes_are_stacked_in_reading_order_and_unstacked():
    x = jnp.asarray(normal(2, 4, 2, 6, 3))
    stacked = space_to_depth(x, 2)
    assert stacked.shape == (2, 2, 1, 3, 24)
    for place, (i, j, k) in enumerate(product((0, 1), repeat=3)):
        part = stacked[..., 3 * place : 3 * place + 3]
        np.testing.assert_array_equal(part, x[:, i::2, j::2, k::2])
    np.testing.assert_array_equal(depth_to_space(stacked, 2), x)
    with pytest.raises(ValueError, match=r"channels: got 12, allowed: a multiple of patch\^3 = 8"):
        depth_to_space(jnp.zeros((1, 2, 2, 2, 12)), 2)
    with pytest.raises(ValueError, match=r"image size: got \(2, 3, 4\)"):
        space_to_depth(jnp.zeros((1, 2, 3, 4, 1)), 2)


@pytest.mark.parametrize(
    ("shape", "field"), [((1, 8, 8, 1), r"x\.shape"), ((1, 8, 8, 6, 1), "depth and height and width of x")]
)
def test_sizes_that_do_not_fit_are_named(shape, field):
    model = make_model({"name": "UNet3D", "channel_multipliers": [1, 2, 2], "patch_size": 1}, 0)
    assert model == UNet3D(channel_multipliers=(1, 2, 2))
    with pytest.raises(ValueError, match=f"^{field}: got .*, allowed: "):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
