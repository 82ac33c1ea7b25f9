"""What every network promises: shapes, silence at initialisation, and what its output depends on."""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffax.models import MLP, DiT, NCSNpp, UNet

BATCH, CLASSES = 3, 4
SMALL = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "num_classes": CLASSES}
NETWORKS = {
    "unet_conv": (UNet(**SMALL, attention_levels=(False, True), heads=2), (8, 4, 2)),
    "unet_pool": (
        UNet(
            **SMALL, resample="pool", scale_shift=True, patch_size=2, out_channels=3, middle_attention=False
        ),
        (8, 4, 1),
    ),
    "ncsnpp_residual": (NCSNpp(**SMALL, attention_levels=()), (8, 8, 1)),
    "ncsnpp_skip": (
        NCSNpp(
            **SMALL,
            attention_levels=(False, True),
            progressive_input="input_skip",
            progressive_output="output_skip",
        ),
        (8, 8, 2),
    ),
    "dit": (DiT(width=16, depth=2, heads=2, num_classes=CLASSES, out_channels=5), (4, 8, 3)),
    "mlp": (MLP(width=16, blocks=2, num_classes=CLASSES, time_embedding="fourier"), (5,)),
}
# One level and one block: for the tests that must compile a network of their own.
TINY = {
    "unet": (UNet(8, (1,), 1, (True,), num_classes=CLASSES, dropout=0.5), (2, 4, 1)),
    "dit": (DiT(width=16, depth=1, heads=2, num_classes=CLASSES, dropout=0.5), (2, 4, 1)),
    "mlp": (MLP(width=16, blocks=1, num_classes=CLASSES, dropout=0.5), (3,)),
}
every_tiny_network = pytest.mark.parametrize("name", TINY)
# Compiling is most of what these tests cost; the least optimised code does for a few pixels.
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
every_network = pytest.mark.parametrize("name", NETWORKS)


def randomize(shapes, seed=7):
    """Random parameters of these shapes: none is zero, so that every path of the network is open."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, fan_in = path[-1].key, np.prod(leaf.shape[:-1])
        mean, spread = {"scale": (1, 0.2), "bias": (0, 0.2), "embedding": (0, 1)}.get(name, (0, fan_in**-0.5))
        return jnp.asarray(rng.normal(mean, spread, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def inputs(shape, seed=0):
    """An image or vector, a time and a label for each sample, the last one unconditional."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (BATCH, *shape))
    time = jax.random.uniform(keys[1], (BATCH,))
    label = jax.random.randint(keys[2], (BATCH,), 0, CLASSES)
    return x, time, {"label": label, "unconditional": jnp.arange(BATCH) == BATCH - 1}


@cache
def network(name):
    """The network of that name, compiled once, with initial and with random parameters."""
    model, shape = NETWORKS[name]
    x, time, cond = inputs(shape)
    initial = fast_jit(model.init)(jax.random.key(1), x, time, cond)["params"]
    run = fast_jit(lambda params, *args: model.apply({"params": params}, *args))
    return SimpleNamespace(
        model=model, initial=initial, params=randomize(initial), run=run, x=x, time=time, cond=cond
    )


def distance(a, b):
    """Largest difference of any entry of each sample."""
    return np.abs(np.asarray(a) - np.asarray(b)).max(axis=tuple(range(1, a.ndim)))


@every_network
def test_output_has_the_asked_size_in_float32_and_is_zero_at_initialisation(name):
    net = network(name)
    channels = getattr(net.model, "out_channels", None) or net.x.shape[-1]
    output = net.run(net.initial, net.x, net.time, net.cond)
    assert output.shape == (*net.x.shape[:-1], channels)
    assert output.dtype == jnp.float32
    np.testing.assert_array_equal(output, 0.0)
    assert float(jnp.std(net.run(net.params, net.x, net.time, net.cond))) > 0.1


@every_network
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(name):
    net = network(name)
    other_x, other_time, other_cond = inputs(net.x.shape[1:], seed=9)
    first = jnp.arange(BATCH) == 0
    x = jnp.where(first.reshape(-1, *[1] * (net.x.ndim - 1)), net.x, other_x)
    time = jnp.where(first, net.time, other_time)
    cond = {k: jnp.where(first, net.cond[k], other_cond[k]) for k in net.cond}
    before, after = net.run(net.params, net.x, net.time, net.cond), net.run(net.params, x, time, cond)
    moved = distance(before, after)
    assert moved[0] < 1e-5
    assert (moved[1:] > 1e-2).all()


@every_network
def test_the_label_matters_unless_a_sample_is_unconditional(name):
    net = network(name)
    before = net.run(net.params, net.x, net.time, net.cond)
    relabelled = dict(net.cond, label=(net.cond["label"] + 1) % CLASSES)
    moved = distance(before, net.run(net.params, net.x, net.time, relabelled))
    assert (moved[:-1] > 1e-4).all()
    assert moved[-1] == 0.0
    dropped = dict(net.cond, unconditional=jnp.ones(BATCH, bool))
    moved = distance(before, net.run(net.params, net.x, net.time, dropped))
    assert (moved[:-1] > 1e-4).all()
    assert moved[-1] == 0.0


@every_network
def test_the_time_matters(name):
    net = network(name)
    before = net.run(net.params, net.x, net.time, net.cond)
    after = net.run(net.params, net.x, net.time + 0.1, net.cond)
    assert (distance(before, after) > 1e-3).all()


@pytest.mark.parametrize("name", ["unet_pool", "dit", "mlp"])
def test_bfloat16_stays_close_to_float32(name):
    net = network(name)
    half = net.model.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), net.x, net.time, net.cond)["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    wide = net.run(net.params, net.x, net.time, net.cond)
    narrow = fast_jit(half.apply)({"params": net.params}, net.x, net.time, net.cond)
    assert narrow.dtype == jnp.float32
    error = float(jnp.linalg.norm(narrow - wide) / jnp.linalg.norm(wide))
    assert 0 < error < 0.05


@every_network
def test_every_part_of_the_network_reaches_the_output(name):
    net = network(name)
    before = net.run(net.params, net.x, net.time, net.cond)
    for part in net.params:
        silenced = {**net.params, part: jax.tree.map(jnp.zeros_like, net.params[part])}
        moved = distance(before, net.run(silenced, net.x, net.time, net.cond))
        assert (moved > 1e-4).all(), part


def test_a_transformer_tells_equal_patches_apart_by_their_places():
    net = network("dit")
    output = net.run(net.params, jnp.ones_like(net.x), net.time, net.cond)
    batch, height, width, channels = output.shape
    patches = output.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    patches = patches.reshape(batch, -1, 4 * channels)
    gaps = jnp.abs(patches[:, :, None] - patches[:, None]).max(axis=-1)
    assert float((gaps + jnp.eye(gaps.shape[-1])).min()) > 1e-2


def mean_square(params, model, *args):
    return jnp.mean(jnp.square(model.apply({"params": params}, *args)))


def test_the_null_label_learns_and_remat_keeps_every_gradient():
    model, shape = TINY["dit"]
    x, time, cond = inputs(shape)
    params = randomize(jax.eval_shape(model.init, jax.random.key(0), x, time)["params"])
    gradient = fast_jit(jax.grad(mean_square), static_argnums=1)
    plain = gradient(params, model, x, time, cond)
    remat = gradient(params, model.clone(remat=True), x, time, cond)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), plain, remat)
    moved = np.abs(plain["condition"]["label"]["embedding"]).max(axis=-1) > 0
    assert set(np.flatnonzero(moved)) == {*np.asarray(cond["label"])[:-1].tolist(), CLASSES}


@pytest.mark.parametrize(("name", "parts"), [("unet", 5 + 4), ("dit", 1)])
def test_remat_recomputes_each_block_and_layer_of_attention_under_the_same_names(name, parts):
    model, shape = TINY[name]
    x, time, cond = inputs(shape)
    remat = model.clone(remat=True)
    plain, params = (jax.eval_shape(m.init, jax.random.key(0), x, time)["params"] for m in (model, remat))
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    steps = jax.make_jaxpr(mean_square, static_argnums=1)(params, remat, x, time, cond).eqns
    assert sum("prevent_cse" in step.params for step in steps) == parts


def test_no_condition_at_all_means_unconditional():
    net = network("mlp")
    dropped = dict(net.cond, unconditional=jnp.ones(BATCH, bool))
    expected = net.run(net.params, net.x, net.time, dropped)
    for cond in (None, {}, {"unconditional": jnp.zeros(BATCH, bool)}):
        np.testing.assert_allclose(net.run(net.params, net.x, net.time, cond), expected, atol=1e-6)


def test_a_network_without_classes_ignores_labels():
    net = network("mlp")
    model = net.model.clone(num_classes=0)
    params = {**net.params, "condition": {k: v for k, v in net.params["condition"].items() if k != "label"}}
    outputs = [model.apply({"params": params}, net.x, net.time, cond) for cond in (None, net.cond)]
    np.testing.assert_array_equal(*outputs)


@every_tiny_network
def test_concatenated_conditions_are_read_unless_a_sample_is_unconditional(name):
    model, shape = TINY[name]
    x, time, cond = inputs(shape)
    concat = jnp.ones((*x.shape[:-1], 2))
    params = randomize(jax.eval_shape(model.init, jax.random.key(0), x, time, {"concat": concat})["params"])
    run = fast_jit(lambda concat: model.apply({"params": params}, x, time, dict(cond, concat=concat)))
    assert run(concat).shape == x.shape
    moved = distance(run(concat), run(-concat))
    assert (moved[:-1] > 1e-3).all()
    assert moved[-1] == 0.0
    with pytest.raises(ValueError, match=r"cond\['concat'\]\.shape: got"):
        run(jnp.ones((BATCH + 1, *shape)))


@every_tiny_network
def test_dropout_acts_in_training_only_and_jit_changes_nothing(name):
    model, shape = TINY[name]
    x, time, cond = inputs(shape)
    params = {"params": randomize(jax.eval_shape(model.init, jax.random.key(0), x, time)["params"])}

    def train(seed):
        return model.apply(params, x, time, cond, train=True, rngs={"dropout": jax.random.key(seed)})

    train = fast_jit(train)
    assert (distance(train(0), train(1)) > 1e-3).all()
    quiet = fast_jit(model.apply)(params, x, time, cond)
    eager = model.clone(dropout=0.0).apply(params, x, time, cond, train=True)
    np.testing.assert_allclose(quiet, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ncsnpp_residual", "ncsnpp_skip"])
def test_turning_the_image_and_every_kernel_turns_the_output(name):
    """No resampling or padding may lean to one side: half a pixel of drift would show here."""
    net = network(name)
    turned = jax.tree.map(lambda leaf: jnp.rot90(leaf) if leaf.ndim == 4 else leaf, net.params)
    output = net.run(net.params, net.x, net.time, net.cond)
    output_of_turned = net.run(turned, jnp.rot90(net.x, axes=(1, 2)), net.time, net.cond)
    expected = jnp.rot90(output, axes=(1, 2))
    np.testing.assert_allclose(output_of_turned, expected, rtol=1e-3, atol=1e-4)


def test_the_residual_pyramid_carries_the_activations_on():
    """Song et al. 2021: the next level's pyramid starts from (pyramid + h) / sqrt(2), not from the image."""

    class Merge(NCSNpp):
        @nn.compact
        def __call__(self, h, image):
            return self.merge_input(h, image, 1)

    h, image = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 4, 4, 2))
    (merged, pyramid), params = fast_jit(Merge().init_with_output)(jax.random.key(0), h, image)
    np.testing.assert_array_equal(merged, pyramid)
    np.testing.assert_allclose(Merge().apply(params, h, 0 * image)[0], np.sqrt(0.5) * h, rtol=1e-6)


def parameter_count(model, shape):
    """Number of parameters, in millions; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x, time)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6


PUBLISHED = {
    # Ho et al. 2020, appendix B: "Our CIFAR10 model has 35.7 million parameters".
    "ddpm_cifar10": (
        UNet(
            channels=128,
            channel_multipliers=(1, 2, 2, 2),
            blocks_per_level=2,
            attention_levels=(False, True, False, False),
            dropout=0.1,
        ),
        (32, 32, 3),
        35.7,
    ),
    # Dhariwal & Nichol 2021, appendix I: ADM on ImageNet 64x64 has 296 million parameters.
    "adm_imagenet64": (
        UNet(
            channels=192,
            channel_multipliers=(1, 2, 3, 4),
            blocks_per_level=3,
            attention_levels=(False, True, True, True),
            heads=4,
            resample="pool",
            scale_shift=True,
            num_classes=1000,
            out_channels=6,
        ),
        (64, 64, 3),
        296.0,
    ),
    # Peebles & Xie 2023, appendix, table 4: 33, 130 and 675 million. They predict a variance as well:
    # twice the channels.
    "dit_s_2": (DiT(num_classes=1000, out_channels=8), (32, 32, 4), 33.0),
    "dit_b_2": (DiT(width=768, heads=12, num_classes=1000, out_channels=8), (32, 32, 4), 130.0),
    "dit_xl_2": (DiT(width=1152, depth=28, heads=16, num_classes=1000, out_channels=8), (32, 32, 4), 675.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_match_the_papers(name):
    model, shape, millions = PUBLISHED[name]
    assert parameter_count(model, shape) == pytest.approx(millions, rel=0.02)


WRONG_CALLS = {
    "height and width of x": (UNet(patch_size=2), (24, 32, 3)),
    "attention_levels": (UNet(attention_levels=(True,)), (32, 32, 3)),
    "resample": (UNet(resample="bicubic"), (32, 32, 3)),
    "dropout": (UNet(dropout=1.0), (32, 32, 3)),
    "heads": (UNet(channels=8, heads=3), (32, 32, 3)),
    "time_embedding": (MLP(time_embedding="linear"), (2,)),
    "progressive_input": (NCSNpp(progressive_input="cat"), (32, 32, 3)),
    "progressive_output": (NCSNpp(progressive_output="residual"), (32, 32, 3)),
    "image size": (DiT(), (5, 4, 3)),
    "width": (DiT(width=6), (4, 4, 3)),
}


@pytest.mark.parametrize("field", WRONG_CALLS)
def test_bad_input_is_named(field):
    with pytest.raises(ValueError, match=f"^{field}: got .*, allowed: "):
        parameter_count(*WRONG_CALLS[field])
