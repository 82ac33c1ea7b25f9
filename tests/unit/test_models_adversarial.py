"""The generator that draws and the discriminator of pairs, against identities and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.losses.adversarial import generator_loss, r1_penalty
from diffax.models import NCSNpp, PairDiscriminator, StyledNCSNpp
from diffax.models.discriminators import minibatch_deviation
from diffax.models.layers import GroupNorm, MappingNetwork, group_count, pixel_norm
from diffax.training import make_mesh, place, replicated
from diffax.training.sharding import batch_sharding

TINY = {"channels": 8, "channel_multipliers": (1,), "blocks_per_level": 1, "attention_levels": ()}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def filled(params, seed=9):
    """Parameters without zeros: a branch that starts silent hides what is behind it."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


class TestAdaptiveNorm:
    """The style modulates a group norm: identities of AdaGN."""

    x, w = 3.0 * normal(0, 4, 5, 5, 16) + 1.0, normal(1, 4, 6)

    def params(self, kernel, bias):
        zeros = {"kernel": jnp.full((6, 32), kernel), "bias": jnp.asarray(bias)}
        return {"params": {"scale": jnp.ones(16), "bias": jnp.zeros(16), "modulation": zeros}}

    def test_without_weights_it_is_the_plain_norm(self):
        adaptive = GroupNorm().apply(self.params(0.0, np.zeros(32)), self.x, self.w)
        plain = GroupNorm().apply({"params": {"scale": jnp.ones(16), "bias": jnp.zeros(16)}}, self.x)
        np.testing.assert_allclose(adaptive, plain, atol=1e-6)

    def test_a_bias_alone_sets_mean_and_deviation_of_every_group(self):
        gamma, beta = 1.7, -0.4
        bias = np.concatenate([np.full(16, gamma - 1), np.full(16, beta)])
        out = GroupNorm().apply(self.params(0.0, bias), self.x, self.w)
        groups = np.asarray(out).reshape(4, 25, group_count(16), -1)
        np.testing.assert_allclose(groups.mean(axis=(1, 3)), beta, atol=1e-5)
        np.testing.assert_allclose(groups.var(axis=(1, 3)), gamma**2, rtol=1e-4)

    def test_each_sample_has_its_own_style(self):
        params = self.params(0.3, np.zeros(32))
        out = GroupNorm().apply(params, self.x, self.w)
        other = GroupNorm().apply(params, self.x, self.w.at[2].add(1.0))
        changed = np.abs(out - other).max(axis=(1, 2, 3)) > 1e-3
        np.testing.assert_array_equal(changed, [False, False, True, False])


class TestMapping:
    def test_the_normalised_latent_has_a_mean_square_of_one_and_no_length(self):
        z = 5.0 * normal(0, 7, 12)
        np.testing.assert_allclose(jnp.mean(pixel_norm(z) ** 2, axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(pixel_norm(z), pixel_norm(3.0 * z), rtol=1e-5)
        assert bool(jnp.all(jnp.isfinite(pixel_norm(jnp.zeros((1, 3))))))

    def test_layers(self):
        params = MappingNetwork(6, 4).init(jax.random.key(0), normal(1, 2, 3))["params"]
        assert {name: leaf["kernel"].shape for name, leaf in params.items()} == {
            "layer0": (3, 6), **{f"layer{i}": (6, 6) for i in range(1, 5)}
        }  # fmt: skip

    def test_a_latent_without_dimensions(self):
        with pytest.raises(ValueError, match=r"cond\['z'\]"):
            MappingNetwork().init(jax.random.key(0), jnp.zeros((2, 0)))


class TestStyledNCSNpp:
    model = StyledNCSNpp(**TINY, style_features=8, style_layers=1)
    x, t, z = normal(0, 2, 8, 8, 3), jnp.array([0.25, 1.0]), normal(1, 2, 5)

    def variables(self):
        return jax.jit(self.model.init)(jax.random.key(0), self.x, self.t, {"z": self.z})

    @pytest.mark.slow
    def test_silent_at_first_then_the_latent_speaks(self):
        variables = self.variables()
        apply = jax.jit(lambda variables, z: self.model.apply(variables, self.x, self.t, {"z": z}))
        np.testing.assert_array_equal(apply(variables, self.z), 0.0)
        variables = filled(variables)
        first, second = apply(variables, self.z), apply(variables, self.z.at[1].set(normal(3, 5)))
        np.testing.assert_array_equal(first[0], second[0])
        assert float(jnp.abs(first[1] - second[1]).max()) > 1e-2

        # pixel norm: only the latent's direction counts
        np.testing.assert_allclose(apply(variables, 2.0 * self.z), first, atol=2e-4)

    def test_the_style_reaches_every_block(self):
        params = jax.eval_shape(self.variables)["params"]
        blocks = [name for name in params if "block" in name and "attention" not in name]
        assert len(blocks) == 1 + 2 + 2  # encoder, middle, decoder
        for name in blocks:
            assert {"modulation"} <= set(params[name]["norm_in"]) & set(params[name]["norm_out"]), name

    def test_without_a_latent(self):
        with pytest.raises(ValueError, match="latent 'z'"):
            self.model.init(jax.random.key(0), self.x, self.t, None)
        plain = jax.eval_shape(NCSNpp(**TINY).init, jax.random.key(0), self.x, self.t)["params"]
        assert "mapping" not in plain


class TestMinibatchDeviation:
    def test_groups_by_hand(self):
        x = np.asarray(normal(0, 8, 2, 2, 3))
        found = np.asarray(minibatch_deviation(jnp.asarray(x), 4))
        assert found.shape == (8, 2, 2, 1)
        for sample in range(8):
            members = x[sample % 2 :: 2]
            np.testing.assert_allclose(found[sample], members.std(axis=0).mean(), rtol=1e-5)

    def test_equal_samples_have_none_and_a_gradient(self):
        x = jnp.ones((4, 2, 2, 1))
        np.testing.assert_allclose(minibatch_deviation(x), 1e-4, rtol=1e-3)
        assert bool(jnp.all(jnp.isfinite(jax.grad(lambda x: minibatch_deviation(x).sum())(x))))

    def test_the_batch_must_fit(self):
        assert minibatch_deviation(jnp.ones((3, 1, 1, 1)), 4).shape == (3, 1, 1, 1)  # one group of three
        with pytest.raises(ValueError, match="multiple of the group of 4"):
            minibatch_deviation(jnp.ones((6, 1, 1, 1)), 4)


class TestPairDiscriminator:
    model = PairDiscriminator(channels=8, block_channels=(8, 16), halve=(False, True))
    x_s, x_t, t = normal(0, 4, 8, 8, 3), normal(1, 4, 8, 8, 3), jnp.array([0.25, 0.5, 0.75, 1.0])

    def score(self, **changes):
        model = PairDiscriminator(channels=8, block_channels=(8, 16), halve=(False, True), **changes)
        shapes = jax.eval_shape(model.init, jax.random.key(0), self.x_s, self.t, self.x_t)
        variables = filled(shapes)
        return jax.jit(lambda *inputs: model.apply(variables, *inputs))

    def test_undecided_at_first(self):
        out, _ = jax.jit(self.model.init_with_output)(jax.random.key(0), self.x_s, self.t, self.x_t)
        np.testing.assert_array_equal(out, np.zeros(4))

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_it_sees_both_points_and_the_time(self, which):
        score = self.score(group=0)
        inputs = [self.x_s, self.t, self.x_t]
        before = score(*inputs)
        inputs[which] = inputs[which].at[1].multiply(0.3)
        changed = np.abs(score(*inputs) - before) > 1e-4
        np.testing.assert_array_equal(changed, [False, True, False, False])

    def test_the_deviation_couples_a_group(self):
        score = self.score(group=4)
        before = score(self.x_s, self.t, self.x_t)
        after = score(self.x_s.at[1].multiply(0.3), self.t, self.x_t)
        assert np.all(np.abs(after - before) > 1e-6)

    def test_resolutions(self):
        shapes = {"fir": (2, 8, 8, 3), "pool": (2, 16, 16, 1)}
        for resample, shape in shapes.items():
            model = PairDiscriminator(
                channels=8, block_channels=(8, 8), halve=(True, True), resample=resample
            )
            x = normal(0, *shape)
            out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x, jnp.ones(2), x)
            assert out.shape == (2,)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [({"halve": (True,)}, "halve"), ({"resample": "conv"}, "resample"), ({"group": -1}, "group"),
         ({"halve": (True, True), "patch_size": 4}, "multiples of 16")],
    )  # fmt: skip
    def test_errors(self, changes, message):
        fields = {"channels": 8, "block_channels": (8, 16), "halve": (False, True), **changes}
        with pytest.raises(ValueError, match=message):
            PairDiscriminator(**fields).init(jax.random.key(0), self.x_s, self.t, self.x_t)

    @pytest.mark.slow
    def test_losses_and_gradients_do_not_depend_on_the_devices(self):
        """The deviation is the global batch's: as on one device on four, whose rows a group of four spans."""
        x_s, x_t, t = normal(5, 8, 8, 8, 3), normal(6, 8, 8, 8, 3), jnp.linspace(0.25, 1.0, 8)
        model = PairDiscriminator(channels=8, block_channels=(8,), halve=(True,), group=4)
        params = filled(jax.eval_shape(model.init, jax.random.key(0), x_s, t, x_t))

        @jax.jit
        def found(params, x_s, t, x_t):
            def loss(params):
                score = lambda x: model.apply(params, x, t, x_t)  # noqa: E731
                return generator_loss(score(x_s)) + r1_penalty(score, x_s)

            return jax.value_and_grad(loss)(params)

        one = found(params, x_s, t, x_t)
        mesh = make_mesh(4)
        where = batch_sharding(mesh)
        four = found(place(params, replicated(mesh)), *(place(x, where) for x in (x_s, t, x_t)))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
        alone = jnp.stack([found(params, x_s[i::4], t[i::4], x_t[i::4])[0] for i in range(4)]).mean()
        assert abs(float(alone - one[0])) > 1e-3  # the control: per-device statistics would be noticed
