"""Ratios, normalised weights and the surrogate loss of distribution matching, by independent oracles."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffax.losses.adversarial import r1_penalty
from diffax.losses.distribution_matching import (
    approximate_r1,
    bin_edges,
    density_ratio,
    divergence_weight,
    inverse_error_weight,
    matching_direction,
    matching_loss,
    normalise_ratio,
    normalise_weight,
)
from diffax.losses.divergences import DIVERGENCES, Divergence, divergence
from diffax.training import make_mesh
from diffax.training.sharding import batch_sharding, replicated


def batch(n=64, seed=0):
    """Ratios within the clip and noise levels on [0.02, 5], most of them small."""
    rng = np.random.default_rng(seed)
    level = 5 * rng.uniform(0.07, 1, n) ** 2
    return jnp.asarray(np.exp(rng.uniform(-2.3, 2.9, n)), jnp.float32), jnp.asarray(level, jnp.float32)


class TestDensityRatio:
    def test_bounds(self):
        found = density_ratio(jnp.asarray([-1e30, -1.0, 0.0, 1.0, 1e30]))
        np.testing.assert_allclose(found, [0.1, 0.36787944, 1.0, 2.7182818, 20.0], rtol=1e-6)
        wide = density_ratio(jnp.asarray([-1e30, 1e30]), low=1e-9, high=1e9)
        np.testing.assert_allclose(wide, [4.539993e-5, 22026.466], rtol=1e-5)

    def test_bfloat16_logits_are_averaged_and_raised_in_single_precision(self):
        logits = np.random.default_rng(0).normal(0, 2, (256, 3)).astype(ml_dtypes.bfloat16)
        exact = np.clip(np.exp(logits.astype(np.float64).mean(axis=1)), 0.1, 20.0)
        found = jax.jit(density_ratio)(jnp.asarray(logits))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=2e-6)
        assert np.isfinite(density_ratio(jnp.full((4,), 3e38, jnp.bfloat16))).all()

    @pytest.mark.parametrize("logit", [0.5, 100.0, np.inf])
    def test_no_gradient_and_no_nan(self, logit):
        gradient = jax.grad(lambda y: jnp.sum(density_ratio(y)))(jnp.full((3, 2), logit))
        np.testing.assert_array_equal(gradient, 0.0)

    def test_bad_bounds(self):
        for bad in ({"bound": 0.0}, {"low": 0.0}, {"low": 2.0, "high": 1.0}):
            with pytest.raises(ValueError, match="|".join(bad)):
                density_ratio(jnp.zeros(2), **bad)


class TestNormalisation:
    @pytest.mark.parametrize("spacing", ["uniform", "log"])
    def test_edges(self, spacing):
        edges = np.asarray(bin_edges(0.02, 5.0, 10, spacing=spacing), np.float64)
        steps = np.diff(edges) if spacing == "uniform" else np.diff(np.log(edges))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
        np.testing.assert_allclose(edges[[0, -1]], [0.02, 5.0], rtol=1e-6)

    def test_most_of_a_polynomial_schedule_falls_into_the_first_uniform_bin(self):
        """64 % for the published one, noise levels on [0.002, 80] with rho = 7; the reason for log bins."""
        sigma = jnp.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 10_000) ** 7
        shares = [
            float(jnp.mean(sigma < bin_edges(0.002, 80.0, 10, spacing=spacing)[1]))
            for spacing in ("uniform", "log")
        ]
        assert shares[0] == pytest.approx(0.64, abs=0.01)
        assert shares[1] < 0.15

    @pytest.mark.parametrize("spacing", ["uniform", "log"])
    def test_each_bin_has_mean_one(self, spacing):
        ratio, level = batch(500)
        edges = bin_edges(0.02, 5.0, 10, spacing=spacing)
        found, means = normalise_ratio(ratio, level, edges)
        total = np.histogram(level, edges, weights=np.asarray(found))[0]
        count = np.histogram(level, edges)[0]
        np.testing.assert_allclose(total[count > 0] / count[count > 0], 1.0, atol=1e-5)
        assert np.asarray(means).shape == (10,)

    def test_levels_on_an_edge_and_outside(self):
        edges = jnp.asarray([1.0, 2.0, 3.0, 4.0])
        level = jnp.asarray([0.5, 1.0, 2.0, 2.5, 3.0, 4.0, 9.0])
        ratio = jnp.asarray([1.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0])
        np.testing.assert_allclose(normalise_ratio(ratio, level, edges)[1], [2.0, 5.0, 8.0])
        assert float(normalise_ratio(ratio, level, edges[:2])[1][0]) == pytest.approx(38 / 7)

    def test_averages_over_batches(self):
        """Bins of an average that is kept: a batch counts (1 - decay), a bin without samples waits."""
        edges, means = jnp.asarray([0.0, 1.0, 2.0, 3.0]), None
        for ratio, level in (([2.0, 4.0], [0.5, 0.6]), ([8.0], [1.5]), ([5.0], [0.1])):
            ratio, means = normalise_ratio(
                jnp.asarray(ratio), jnp.asarray(level), edges, means, decay=jnp.asarray(0.5)
            )
        # bin 0: 1 -> (1 + 3) / 2 = 2 -> 2 (empty) -> (2 + 5) / 2; bin 1: 1 -> 1 -> (1 + 8) / 2
        np.testing.assert_allclose(means, [3.5, 4.5, 1.0])
        np.testing.assert_allclose(ratio, [5 / 3.5])

    @pytest.mark.parametrize("name", DIVERGENCES)
    def test_the_weight_has_mean_one_and_takes_no_factor(self, name):
        ratio, level = batch(500)
        edges, (f, h) = bin_edges(0.02, 5.0), divergence(name)
        found = jax.jit(lambda r: divergence_weight(divergence(name), r, level, edges))(ratio)
        assert float(found.weight.mean()) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(
            found.weight, np.asarray(h(found.ratio)) / np.asarray(h(found.ratio)).mean(), rtol=1e-5
        )
        for c in (1e-12, 3.0, 1e12):
            scaled = Divergence(lambda r, c=c: c * f(r), lambda r, c=c: c * h(r))
            other = divergence_weight(scaled, ratio, level, edges)
            np.testing.assert_allclose(other.weight, found.weight, rtol=1e-5)

    def test_a_factor_in_the_ratio_drops_out(self):
        """A discriminator that is off by a constant at each noise level does no harm."""
        ratio, level = batch(500)
        edges = bin_edges(0.02, 5.0)
        biased = ratio * jnp.where(level < edges[1], 3.0, 0.25)
        js = divergence("js")
        np.testing.assert_allclose(
            divergence_weight(js, biased, level, edges).weight,
            divergence_weight(js, ratio, level, edges).weight,
            rtol=1e-5,
        )

    def test_order_does_not_matter(self):
        ratio, level = batch(100)
        order, edges = np.random.default_rng(1).permutation(100), bin_edges(0.02, 5.0)
        found = divergence_weight(divergence("kl"), ratio, level, edges)
        mixed = divergence_weight(divergence("kl"), ratio[order], level[order], edges)
        np.testing.assert_allclose(mixed.weight, found.weight[order], rtol=1e-5)
        np.testing.assert_allclose(mixed.means, found.means, rtol=1e-5)

    def test_nothing_but_zeros(self):
        """No mean to divide by, and a gradient that stays a number."""
        np.testing.assert_array_equal(normalise_weight(jnp.zeros(3)), 0.0)
        gradient = jax.grad(lambda w: jnp.sum(normalise_weight(w)))(jnp.zeros(3))
        np.testing.assert_array_equal(gradient, 0.0)

    @pytest.mark.parametrize(
        ("call", "field"),
        [
            (lambda: bin_edges(1.0, 1.0), "low, high"),
            (lambda: bin_edges(0.0, 1.0, spacing="log"), "low"),
            (lambda: bin_edges(0.0, 1.0, 0), "bins"),
            (lambda: bin_edges(0.1, 1.0, spacing="cubic"), "spacing"),
            (lambda: normalise_ratio(jnp.ones(2), jnp.ones(2), jnp.ones(1)), "edges"),
            (lambda: normalise_ratio(jnp.ones(2), jnp.ones(2), jnp.ones(4), jnp.ones(4)), "means"),
            (lambda: normalise_ratio(jnp.ones(2), jnp.ones(2), jnp.ones(4), decay=1.0), "decay"),
            (lambda: approximate_r1(jax.random.key(0), jnp.sum, jnp.ones((2, 2)), scale=0.0), "scale"),
        ],
    )
    def test_bad_input_is_named(self, call, field):
        with pytest.raises(ValueError, match=field):
            call()


def objective(params, logits, x, level, edges):
    """The loss of a generator that scales its input, with every part depending on the parameters."""
    y = params["generator"] * x
    found = divergence_weight(divergence("kl"), density_ratio(params["logits"] * logits), level, edges)
    weight = found.weight * inverse_error_weight(y, params["teacher"] * y)
    return matching_loss(y, params["teacher"] * y, params["own"] * y**2, weight), found.means


PARAMS = {"generator": 1.5, "teacher": 0.5, "own": 0.25, "logits": 1.0}


def example(n=64):
    ratio, level = batch(n)
    x = np.random.default_rng(2).normal(size=(n, 3, 2)).astype("f")
    return jnp.log(ratio), jnp.asarray(x), level, bin_edges(0.02, 5.0)


class TestGlobalBatch:
    def test_one_device_and_four_agree(self):
        """Means over bins and batch are those of all devices together, in loss and in gradient."""
        args, step = example(), jax.jit(jax.value_and_grad(objective, has_aux=True))
        mesh = make_mesh(4)
        rows = [jax.device_put(a, batch_sharding(mesh)) for a in args[:3]]
        spread = step(PARAMS, *rows, jax.device_put(args[3], replicated(mesh)))
        assert len(spread[0][1].sharding.device_set) == 4
        for found, expected in zip(jax.tree.leaves(spread), jax.tree.leaves(step(PARAMS, *args))):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)

    def test_means_of_each_device_would_not(self):
        """The check above can fail: the same weights from each device's own rows are others."""
        logits, _, level, edges = example()

        def weight(logits, level):
            return divergence_weight(divergence("kl"), density_ratio(logits), level, edges).weight

        rows = PartitionSpec(("data", "fsdp"))
        local = jax.shard_map(weight, mesh=make_mesh(4), in_specs=rows, out_specs=rows, check_vma=False)
        assert np.abs(np.asarray(local(logits, level)) - np.asarray(weight(logits, level))).max() > 0.1


class TestMatchingLoss:
    def test_gradient_and_value(self):
        """d loss / dx = w (own - teacher) / (number of elements): an average over all elements."""
        rng = np.random.default_rng(3)
        x, teacher, own = rng.normal(size=(3, 5, 4, 2)).astype("f")
        weight = rng.uniform(0.5, 2, 5).astype("f")
        g = weight[:, None, None] * (own - teacher)
        loss, gradient = jax.value_and_grad(matching_loss)(*map(jnp.asarray, (x, teacher, own, weight)))
        np.testing.assert_allclose(gradient, g / 40, rtol=1e-5)
        assert float(loss) == pytest.approx(0.5 * np.mean(g**2), rel=1e-5)
        np.testing.assert_allclose(
            matching_direction(*map(jnp.asarray, (teacher, own, weight))), g, rtol=1e-6
        )

    def test_descent_moves_towards_the_teacher(self):
        """Own estimate at the point itself: descent is -(x - teacher)."""
        x, teacher = jnp.asarray([[3.0], [-2.0]]), jnp.asarray([[1.0], [-1.0]])
        step = -jax.grad(matching_loss)(x, teacher, x, jnp.ones(2))
        assert float(step[0, 0]) < 0 < float(step[1, 0])

    def test_small_directions_survive_large_samples(self):
        """x - (x - g) would round g to multiples of x's last digit, 7.6e-6 at 100."""
        x, g = jnp.full((4, 1), 100.0), jnp.full((4, 1), 1e-7)
        gradient = jax.grad(matching_loss)(x, jnp.zeros((4, 1)), g, jnp.ones(4))
        np.testing.assert_allclose(gradient, 1e-7 / 4, rtol=1e-5)

    def test_bfloat16_samples(self):
        x = jnp.full((4, 2), 100.0, jnp.bfloat16)
        loss, gradient = jax.value_and_grad(matching_loss)(x, x - 1, x + 1, jnp.ones(4))
        assert loss.dtype == jnp.float32
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(gradient.astype(jnp.float32), 2 / 8, rtol=1e-2)

    def test_only_the_generator_learns(self):
        """Teacher, own estimate, discriminator, weights: constants, though they depend on the sample too."""
        gradient, _ = jax.grad(objective, has_aux=True)(PARAMS, *example())
        assert abs(float(gradient.pop("generator"))) > 1e-3
        assert {name: float(value) for name, value in gradient.items()} == dict.fromkeys(gradient, 0.0)

    def test_each_part_is_a_constant_by_itself(self):
        x, teacher, own, weight = (
            jnp.ones((4, 2)),
            jnp.zeros((4, 2)),
            3 * jnp.ones((4, 2)),
            jnp.arange(1.0, 5.0),
        )
        for gradient in jax.grad(matching_loss, argnums=(1, 2, 3))(x, teacher, own, weight):
            np.testing.assert_array_equal(gradient, 0.0)
        ratio, level = batch()
        for call in (
            lambda a: inverse_error_weight(a * x, teacher),
            lambda a: inverse_error_weight(x, teacher, floor=a * weight),
            lambda a: matching_direction(teacher, a * own, weight),
            lambda a: normalise_weight(a * weight),
            lambda a: divergence_weight(divergence("kl"), a * ratio, level, bin_edges(0.02, 5.0))[:2],
        ):
            gradient = jax.grad(lambda a, call=call: sum(map(jnp.sum, jax.tree.leaves(call(a)))))(1.5)
            assert float(gradient) == 0.0

    def test_the_generators_gradient_is_the_direction_alone(self):
        """By hand for y = a x: sum(g x) / size, no term from what else depends on a."""
        args = example()
        gradient, _ = jax.grad(objective, has_aux=True)(PARAMS, *args)
        logits, x, level, edges = args
        y = 1.5 * x
        weight = divergence_weight(divergence("kl"), density_ratio(logits), level, edges).weight
        g = (np.asarray(weight) / np.abs(0.5 * y).mean(axis=(1, 2)))[:, None, None] * (0.25 * y**2 - 0.5 * y)
        assert float(gradient["generator"]) == pytest.approx(float((g * x).mean()), rel=1e-4)


class TestInverseErrorWeight:
    def test_values(self):
        x = jnp.asarray([[[1.0, 2.0]], [[3.0, -4.0]]])
        np.testing.assert_allclose(
            inverse_error_weight(x, jnp.zeros((2, 1, 2))), [1 / 1.5, 1 / 3.5], rtol=1e-5
        )

    def test_a_floor_bounds_it(self):
        x = jnp.asarray([[1e-9], [0.2], [5.0]])
        bare = inverse_error_weight(x, jnp.zeros((3, 1)))
        assert float(bare[0]) > 9e5
        np.testing.assert_allclose(
            inverse_error_weight(x, jnp.zeros((3, 1)), floor=0.5), [2, 2, 0.2], rtol=1e-5
        )
        floor = jnp.asarray([0.1, 1.0, 1.0])
        np.testing.assert_allclose(
            inverse_error_weight(x, jnp.zeros((3, 1)), floor=floor), [10, 1, 0.2], rtol=1e-4
        )

    def test_a_perfect_teacher_leaves_no_nan(self):
        """x = x0_p: the error is 0 and its absolute value has a kink."""

        def loss(a):
            x = a * jnp.ones((3, 2))
            return matching_loss(x, x, 2 * x, inverse_error_weight(x, x))

        value, gradient = jax.value_and_grad(loss)(1.0)
        assert np.isfinite(value)
        assert np.isfinite(gradient)


class TestApproximateR1:
    def test_a_linear_discriminator(self):
        """(w . n)^2 is |w|^2 times a chi^2 of one degree of freedom: 25 within 5 standard errors."""
        w, n = jnp.array([3.0, -4.0]), 20_000
        found = approximate_r1(jax.random.key(0), lambda x: x @ w + 7.0, jnp.ones((n, 2)), scale=0.5)
        assert float(found) == pytest.approx(25.0, abs=5 * 25 * np.sqrt(2 / n))

    def test_it_tends_to_the_exact_penalty(self):
        def discriminate(x):
            return jnp.sin(x[:, 0]) * x[:, 1]

        x = jax.random.normal(jax.random.key(1), (50_000, 2))
        exact = float(r1_penalty(discriminate, x))
        errors = [
            abs(float(approximate_r1(jax.random.key(2), discriminate, x, scale=scale)) - exact)
            for scale in (2.0, 0.05)
        ]
        assert errors[1] < 0.03 * exact < errors[0]

    def test_its_own_gradient(self):
        """Quadratic in the weights of a linear discriminator, where a central difference is exact."""
        x = jax.random.normal(jax.random.key(3), (50, 2))

        def loss(w):
            return approximate_r1(jax.random.key(0), lambda x: x @ w + 3.0, x, scale=0.5)

        w, found = jnp.array([3.0, -4.0]), jax.grad(loss)(jnp.array([3.0, -4.0]))
        differences = [(loss(w + e) - loss(w - e)) / 2 for e in jnp.eye(2)]
        np.testing.assert_allclose(found, differences, rtol=1e-3)

    def test_narrow_logits_are_subtracted_in_single_precision(self):
        found = approximate_r1(jax.random.key(0), lambda x: x[:, 0].astype(jnp.bfloat16), jnp.ones((64, 1)))
        assert found.dtype == jnp.float32
