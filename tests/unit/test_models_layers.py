"""The layers against independent computations: scipy, loops in float64, closed forms, symmetries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, special

from diffax.models.dit import DiTBlock, sincos_positions
from diffax.models.layers import (
    GroupNorm,
    PixelAttention,
    ResNetBlock,
    SelfAttention,
    check_time,
    depth_to_space,
    downsample,
    filter_axis,
    fir_filter,
    fourier_features,
    group_count,
    label_rows,
    layer_norm,
    sinusoidal_features,
    space_to_depth,
    standardize_groups,
    upsample,
)

# Compiling is most of what these tests cost; the least optimised code does for a few pixels.
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def at_first(module, *args):
    """The output at initialisation."""
    return fast_jit(module.init_with_output)(jax.random.key(0), *args)[0]


def opened(module, *args):
    """The module as a function of its inputs, under random parameters, none of them zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0.1, 0.3, s.shape), s.dtype), shapes)
    return fast_jit(partial(module.apply, params)), params["params"]


# ---- time and labels


def test_sinusoidal_features_depend_on_differences_of_time_only_and_tell_diffusion_steps_apart():
    time = jnp.arange(1000) / 1000
    features = np.asarray(sinusoidal_features(time, 32), np.float64)
    products = features[:900:100] @ features.T
    np.testing.assert_allclose(products[0, :100], products[3, 300:400], atol=2e-3)
    np.testing.assert_allclose(products[0, 0], 16, rtol=1e-5)
    assert np.abs(features[1:] - features[:-1]).max(axis=1).min() > 0.4


def test_fourier_features_make_the_gaussian_kernel():
    """E cos(2 pi f d) over f ~ N(0, s^2) is exp(-2 (pi s d)^2), the characteristic function."""
    gaps = jnp.linspace(0.0, 0.4, 9)
    features = np.asarray(fourier_features(gaps, 20_000, scale=1.0), np.float64)
    kernel = features @ features[0] / 10_000
    np.testing.assert_allclose(kernel, np.exp(-2 * (np.pi * np.asarray(gaps)) ** 2), atol=0.03)


def test_fourier_frequencies_are_fixed():
    """The first deviate of numpy's legacy generator under seed 0 is 1.764052345967664, for ever."""
    features = fourier_features(jnp.array([0.01]), 4, scale=16.0)
    np.testing.assert_allclose(features[0, 0], np.sin(2 * np.pi * 16 * 1.764052345967664 * 0.01), rtol=1e-5)


def test_label_rows():
    label = jnp.array([0, 2, 1])
    unconditional = jnp.array([False, True, False])
    np.testing.assert_array_equal(label_rows({"label": label}, 3, 3), [0, 2, 1])
    np.testing.assert_array_equal(
        label_rows({"label": label, "unconditional": unconditional}, 3, 3), [0, 3, 1]
    )
    np.testing.assert_array_equal(label_rows(None, 3, 3), [3, 3, 3])
    with pytest.raises(ValueError, match=r"cond\['label'\]: got .* allowed: classes from 0 to 1"):
        label_rows({"label": label}, 2, 3)
    with pytest.raises(ValueError, match=r"cond\['label'\]\.shape"):
        label_rows({"label": label[:2]}, 3, 3)


@pytest.mark.parametrize("features", [sinusoidal_features, fourier_features])
def test_time_features_must_be_even(features):
    with pytest.raises(ValueError, match="features: got 7, allowed: a positive even number"):
        features(jnp.zeros(1), 7)


# ---- normalisation


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_groups_are_standardized_even_far_from_zero(offset):
    x = np.asarray(normal(2, 3, 5, 12)) * 2 + offset
    groups = np.float64(x).reshape(2, 3, 5, 4, 3)
    flat = groups.transpose(0, 3, 1, 2, 4).reshape(8, -1)
    expected = ((flat.T - flat.mean(1)) / flat.std(1)).T
    expected = expected.reshape(2, 4, 3, 5, 3).transpose(0, 2, 3, 1, 4).reshape(x.shape)
    np.testing.assert_allclose(standardize_groups(jnp.asarray(x), 4), expected, atol=1e-5 + 1e-6 * offset)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (64, 16), (48, 12), (30, 6), (7, 1), (3, 1)])
def test_group_count_divides(channels, groups):
    assert group_count(channels) == groups


def test_group_norm_forgets_scale_and_shift_and_an_embedding_brings_them_back():
    x, embedding = normal(2, 4, 4, 8), normal(2, 6, seed=1)
    norm, _ = opened(GroupNorm(), x, embedding)
    plain = norm(x)
    np.testing.assert_allclose(norm(50 * x - 20), plain, atol=1e-4)
    adapted = norm(x, embedding)
    # Whatever the linear map, each channel of each sample undergoes one affine map: its slope and
    # offset follow from two pixels and predict the others.
    slope = (adapted[:, 0, 0] - adapted[:, 1, 1]) / (plain[:, 0, 0] - plain[:, 1, 1])
    offset = adapted[:, 0, 0] - slope * plain[:, 0, 0]
    np.testing.assert_allclose(adapted, plain * slope[:, None, None] + offset[:, None, None], atol=1e-3)
    assert np.abs(slope - 1).max() > 0.1


def test_group_norm_with_zero_init_starts_without_modulation():
    x, embedding = normal(2, 4, 4, 8), normal(2, 6, seed=1)
    silent = at_first(GroupNorm(zero_init=True), x, embedding)
    np.testing.assert_array_equal(silent, at_first(GroupNorm(), x))
    assert np.abs(at_first(GroupNorm(), x, embedding) - silent).max() > 0.1


def test_statistics_are_float32_under_bfloat16():
    """In bfloat16 the mean of 1 + small noise over 4096 values would be lost: its step is 1/128."""
    x = (1 + 0.02 * normal(1, 32, 32, 4)).astype(jnp.bfloat16)
    y = at_first(GroupNorm(dtype=jnp.bfloat16), x)
    assert y.dtype == jnp.bfloat16
    assert abs(float(y.astype(jnp.float32).mean())) < 5e-3
    z = layer_norm((1 + 0.02 * normal(4, 4096)).astype(jnp.bfloat16)).astype(jnp.float32)
    assert float(jnp.abs(z.mean(-1)).max()) < 5e-3
    np.testing.assert_allclose(z.std(-1), 1.0, rtol=0.01)


# ---- attention


def attention_by_loops(x, kernel, bias, heads):
    """Softmax attention, one sample, head and query at a time, in float64."""
    batch, tokens, channels = x.shape
    size = channels // heads
    mixed = np.zeros_like(x)
    for b in range(batch):
        projected = x[b] @ kernel + bias
        for head in range(heads):
            query, key, value = (projected[:, (3 * head + part) * size :][:, :size] for part in range(3))
            for i in range(tokens):
                weights = special.softmax([query[i] @ key[j] / size**0.5 for j in range(tokens)])
                mixed[b, i, head * size : (head + 1) * size] = weights @ value
    return mixed


def test_self_attention_is_the_softmax_written_out():
    x = normal(2, 5, 8)
    attention, params = opened(SelfAttention(heads=2), x)
    host = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    mixed = attention_by_loops(np.asarray(x, np.float64), **host["qkv"], heads=2)
    expected = mixed @ host["out"]["kernel"] + host["out"]["bias"]
    np.testing.assert_allclose(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_pixel_attention_starts_as_the_identity_and_keeps_the_variance_when_asked():
    x = normal(2, 3, 4, 8)
    for rescale, factor in [(False, 1.0), (True, 0.5**0.5)]:
        y = at_first(PixelAttention(heads=2, rescale_skip=rescale), x)
        np.testing.assert_allclose(y, factor * x, rtol=1e-6)


def test_a_transformer_block_commutes_with_permutations_of_its_tokens():
    tokens, embedding = normal(2, 6, 8), normal(2, 8, seed=1)
    block, _ = opened(DiTBlock(heads=2), tokens, embedding)
    order = jnp.array([3, 0, 5, 1, 2, 4])
    mixed = block(tokens, embedding)
    assert float(jnp.abs(mixed - tokens).max()) > 0.1
    np.testing.assert_allclose(block(tokens[:, order], embedding), mixed[:, order], rtol=1e-4, atol=1e-5)


def test_a_transformer_block_starts_as_the_identity():
    tokens = normal(2, 6, 8)
    np.testing.assert_array_equal(at_first(DiTBlock(heads=2), tokens, normal(2, 8, seed=1)), tokens)


def test_positions_are_distinct_and_their_products_depend_on_displacements_only():
    height, width = 3, 5
    table = np.float64(sincos_positions(height, width, 32)).reshape(height, width, 32)
    gram = np.einsum("ijc,klc->ijkl", table, table)
    np.testing.assert_allclose(gram[0, 0, :2, :3], gram[1, 2, 1:, 2:], atol=1e-5)
    np.testing.assert_allclose(np.einsum("ijij->ij", gram), 16, rtol=1e-6)
    assert (gram - 15.9 * np.eye(15).reshape(gram.shape) < 15.9).all()
    # Columns in the first half of the features, rows in the second.
    np.testing.assert_array_equal(table[0, :, :16], table[2, :, :16])
    np.testing.assert_array_equal(table[:, 0, 16:], table[:, 4, 16:])


# ---- resampling


def upfirdn_by_scipy(x, up, down, pad):
    """Both axes with scipy's full convolution, cut to where ``pad`` zeros stand on either side."""
    taps = up * np.array([1.0, 3.0, 3.0, 1.0]) / 8
    for axis in (1, 2):
        full = signal.upfirdn(taps, np.pad(x, [(0, 0)] * 4), up=up, axis=axis)
        full = np.pad(full, [(4, 4) if a == axis else (0, 0) for a in range(4)])
        start, count = 4 + 3 - pad[0], (x.shape[axis] * up + sum(pad) - 4) // down + 1
        x = np.take(full, start + down * np.arange(count), axis=axis)
    return x


@pytest.mark.parametrize(
    ("up", "down", "pad"), [(1, 2, (1, 1)), (2, 1, (2, 1)), (1, 1, (2, 2)), (2, 3, (3, 0))]
)
def test_fir_filter_agrees_with_scipy(up, down, pad):
    x = np.asarray(normal(2, 6, 8, 3))
    expected = upfirdn_by_scipy(np.float64(x), up, down, pad)
    np.testing.assert_allclose(fir_filter(jnp.asarray(x), up=up, down=down, pad=pad), expected, atol=1e-6)


def test_filter_axis_takes_taps_in_order():
    """A lopsided kernel, by hand: y[i] = 2 z[2 i] + 5 z[2 i + 1] - z[2 i + 2], z = (0, 1, 2, 3, 4, 0)."""
    x = jnp.arange(1.0, 5.0)
    np.testing.assert_array_equal(
        filter_axis(x, 0, (2.0, 5.0, -1.0), up=1, down=2, pad=(1, 1)), [5 * 1 - 2, 2 * 2 + 5 * 3 - 4]
    )


@pytest.mark.parametrize("kind", ["fir", "pool"])
def test_resampling_keeps_constants_and_the_total_light(kind):
    constant = jnp.full((1, 8, 10, 2), 3.0)
    np.testing.assert_allclose(downsample(constant, kind)[:, 1:-1, 1:-1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(upsample(constant, kind)[:, 2:-2, 2:-2], 3.0, rtol=1e-6)
    spark = jnp.zeros((1, 8, 10, 1)).at[0, 3, 4, 0].set(1.0)
    np.testing.assert_allclose(downsample(spark, kind).sum(), 1 / 4, rtol=1e-6)
    np.testing.assert_allclose(upsample(spark, kind).sum(), 4.0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["fir", "pool"])
def test_upsampling_is_four_times_the_adjoint_of_downsampling(kind):
    x, y = normal(2, 6, 8, 3), normal(2, 3, 4, 3, seed=1)
    down = jnp.vdot(downsample(x, kind), y)
    np.testing.assert_allclose(jnp.vdot(x, upsample(y, kind)), 4 * down, rtol=1e-4)


def test_pooling_by_hand():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(downsample(x, "pool")[0, :, :, 0], [[2.5, 4.5]])
    np.testing.assert_array_equal(upsample(x[:, :1, :2], "pool")[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 1, 1]])


def test_resampling_errors_are_named():
    with pytest.raises(ValueError, match=r"image size: got \(3, 4\)"):
        downsample(jnp.zeros((1, 3, 4, 1)), "pool")
    with pytest.raises(ValueError, match="kind: got 'area'"):
        upsample(jnp.zeros((1, 4, 4, 1)), "area")
    with pytest.raises(ValueError, match="image size: got"):
        space_to_depth(jnp.zeros((1, 3, 4, 1)), 2)
    with pytest.raises(ValueError, match="channels: got 6"):
        depth_to_space(jnp.zeros((1, 3, 4, 6)), 2)


def test_space_to_depth_stacks_squares_in_reading_order_and_is_undone():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    stacked = space_to_depth(image, 2)
    np.testing.assert_array_equal(stacked[0, 0, 1], [2, 3, 6, 7])
    colour = normal(2, 4, 6, 3)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(colour, 2), 2), colour)
    np.testing.assert_array_equal(space_to_depth(colour, 2)[:, :, :, :3], colour[:, ::2, ::2])


# ---- the residual block


def test_a_residual_block_starts_as_its_skip_and_sums_keep_their_variance():
    x, embedding = normal(4, 8, 8, 8), normal(4, 6, seed=1)
    for rescale, factor in [(False, 1.0), (True, 0.5**0.5)]:
        y = at_first(ResNetBlock(8, rescale_skip=rescale), x, embedding)
        np.testing.assert_allclose(y, factor * x, rtol=1e-6)


@pytest.mark.parametrize("kind", ["fir", "pool"])
def test_a_block_that_halves_moves_half_as_far_as_its_input(kind):
    """A bump moved by four pixels moves the output by two: borders are the same, statistics too."""
    bump = jnp.zeros((1, 32, 32, 4)).at[:, 12:16, 12:16].set(normal(4, 4, 4))
    embedding = normal(1, 6)
    block, _ = opened(ResNetBlock(8, resample=partial(downsample, kind=kind)), bump, embedding)
    still = block(bump, embedding)[:, 3:11, 3:11]
    moved = block(jnp.roll(bump, (4, 4), (1, 2)), embedding)[:, 5:13, 5:13]
    assert float(jnp.std(still)) > 0.1
    np.testing.assert_allclose(moved, still, rtol=1e-4, atol=1e-4)


def test_a_style_modulates_each_sample():
    x, embedding, style = normal(2, 4, 4, 8), normal(2, 6, seed=1), normal(2, 5, seed=2)
    block, _ = opened(ResNetBlock(8), x, embedding, style)
    before = block(x, embedding, style)
    after = block(x, embedding, style.at[1].add(1.0))
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert float(jnp.abs(after[1] - before[1]).max()) > 0.05


def test_a_time_for_each_sample():
    with pytest.raises(ValueError, match=r"time\.shape: got \(2,\), allowed: \(3,\)"):
        check_time(jnp.zeros(2), 3)
