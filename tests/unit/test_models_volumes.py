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
FIELDS = {
    "channels": 8,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (False, True),
    "heads": 2,
    "num_classes": 3,
}
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
def network():
    """A network over volumes, compiled once."""
    model, x = UNet3D(**FIELDS), normal(2, 4, 4, 4, 2)
    run = fast_jit(lambda params, x: model.apply({"params": params}, x, TIME, COND))
    return SimpleNamespace(model=model, x=x, params=random_params(model, x), run=run)


def test_the_output_has_the_size_of_the_volume_and_is_zero_at_initialisation():
    """Only the head is initialised, which alone must be silent: the rest would cost seconds of compiling."""
    net = network()
    start = jax.jit(lambda key: net.model.init(key, net.x, TIME, COND)["params"]["out_conv"])
    output = net.run({**net.params, "out_conv": start(jax.random.key(0))}, net.x)
    assert output.shape == net.x.shape
    np.testing.assert_array_equal(output, 0.0)


def test_every_gradient_is_finite():
    model, x = UNet3D(8, (1,), 1, (), middle_attention=False, patch_size=2), normal(2, 4, 6, 2, 1)
    params = random_params(model, x)
    gradient = fast_jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, x, TIME)))))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_of_equal_slices_it_makes_what_the_network_over_images_makes_of_one():
    """With kernels that do not reach across slices: means, variances, attention and halving are the same."""
    net, image, model = network(), normal(2, 4, 4, 2), UNet(**FIELDS)
    flat = random_params(model, image)
    expected = fast_jit(model.apply)({"params": flat}, image, TIME, COND)

    def widen(kernel):
        reach = kernel.shape[0] // 2
        return np.pad(kernel[None], [(reach, reach)] + [(0, 0)] * 4) if kernel.ndim == 4 else kernel

    output = net.run(jax.tree.map(widen, flat), jnp.repeat(image[:, None], 4, 1))
    assert np.std(expected) > 0.1
    expected = np.broadcast_to(expected[:, None], output.shape)
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-4)


def test_it_treats_all_three_axes_alike():
    """Exchanging the axes of the volume and of every kernel exchanges those of the output."""
    net = network()
    turn = (2, 0, 1)
    params = jax.tree.map(lambda k: k.transpose(*turn, 3, 4) if k.ndim == 5 else k, net.params)
    order = (0, *(1 + axis for axis in turn), 4)
    output = net.run(net.params, net.x)
    turned = net.run(params, net.x.transpose(order))
    assert np.abs(np.diff(output, axis=1)).max() > 0.1
    np.testing.assert_allclose(turned, output.transpose(order), rtol=0, atol=2e-4)


def test_layers_over_voxels():
    x = normal(2, 4, 6, 8, 4)

    @fast_jit
    def layers(x):
        halves = downsample(x, "pool"), downsample(x, "fir")
        return *halves, upsample(x, "pool"), standardize_groups(x, 2), space_to_depth(x, 2)

    pooled, blurred, repeated, standard, stacked = layers(x)
    x = np.float64(x)
    means = x.reshape(2, 2, 2, 3, 2, 4, 2, 4).mean(axis=(2, 4, 6))
    np.testing.assert_allclose(pooled, means, atol=1e-6)
    np.testing.assert_array_equal(repeated, x.repeat(2, 1).repeat(2, 2).repeat(2, 3))
    groups = x.reshape(2, -1, 2, 2)
    groups = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
    np.testing.assert_allclose(standard, groups.reshape(x.shape), atol=1e-5)
    for place, (i, j, k) in enumerate(product((0, 1), repeat=3)):  # cubes in reading order
        np.testing.assert_array_equal(stacked[..., 4 * place : 4 * place + 4], x[:, i::2, j::2, k::2])
    np.testing.assert_array_equal(fast_jit(lambda s: depth_to_space(s, 2))(stacked), x)
    for axis in (1, 2, 3):
        full = signal.upfirdn(np.array([1, 3, 3, 1]) / 8, x, axis=axis)
        x = full.take(range(2, 2 + x.shape[axis], 2), axis=axis)
    np.testing.assert_allclose(blurred, x, atol=1e-6)


def test_cubes_that_do_not_come_out_even():
    with pytest.raises(ValueError, match=r"channels: got 12, allowed: a multiple of patch\^3 = 8"):
        depth_to_space(jnp.zeros((1, 2, 2, 2, 12)), 2)
    with pytest.raises(ValueError, match=r"image size: got \(2, 3, 4\)"):
        space_to_depth(jnp.zeros((1, 2, 3, 4, 1)), 2)
    with pytest.raises(ValueError, match=r"image size: got \(3, 2, 4\)"):
        downsample(jnp.zeros((1, 3, 2, 4, 1)), "fir")


@pytest.mark.parametrize(
    ("shape", "field"), [((1, 8, 8, 1), r"x\.shape"), ((1, 8, 8, 6, 1), "depth and height and width of x")]
)
def test_sizes_that_do_not_fit_are_named(shape, field):
    model = make_model({"name": "UNet3D", "channel_multipliers": [1, 2, 2], "patch_size": 1}, 0)
    assert model == UNet3D(channel_multipliers=(1, 2, 2))
    with pytest.raises(ValueError, match=f"^{field}: got .*, allowed: "):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
