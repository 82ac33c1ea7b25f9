"""Divergences and the weights of their gradients: tables, curvature, functions of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.losses.divergences import ALIASES, DIVERGENCES, divergence, from_function

RATIOS = [0.1, 0.5, 1.0, 2.0, 5.0, 20.0]
# h computed independently, in float64, to six digits
PUBLISHED = {
    "reverse_kl": [1, 1, 1, 1, 1, 1],
    "softened_rkl": [0.909091, 0.666667, 0.5, 0.333333, 0.166667, 0.047619],
    "jensen_shannon": [0.090909, 0.333333, 0.5, 0.666667, 0.833333, 0.952381],
    "hellinger": [0.079057, 0.176777, 0.25, 0.353553, 0.559017, 1.118034],
    "forward_kl": RATIOS,
    "jeffreys": [1.1, 1.5, 2, 3, 6, 21],
    "neyman": [20, 4, 2, 1, 0.4, 0.1],
    "pearson": [0.02, 0.5, 2, 8, 50, 800],
}


class TestDivergences:
    @pytest.mark.parametrize("name", DIVERGENCES)
    def test_the_table_of_weights(self, name):
        np.testing.assert_allclose(divergence(name).h(jnp.asarray(RATIOS)), PUBLISHED[name], rtol=1e-5)

    @pytest.mark.parametrize("name", DIVERGENCES)
    def test_h_is_the_curvature_of_f(self, name, float64):
        f, h = divergence(name)
        r = jnp.geomspace(0.01, 100.0, 101)
        curvature = jax.vmap(jax.grad(jax.grad(f)))(r)
        np.testing.assert_allclose(h(r), curvature * r**2, rtol=1e-6)
        assert float(f(jnp.ones(()))) == 0.0
        assert bool(jnp.all(curvature > 0))

    @pytest.mark.parametrize("name", DIVERGENCES)
    @pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
    def test_a_weight_for_each_ratio(self, name, shape):
        """A weight that forgets the batch (1 for the reverse KL) cannot be averaged over it."""
        f, h = divergence(name)
        for found in (h(jnp.full(shape, 2.0)), from_function(f).h(jnp.full(shape, 2.0))):
            assert found.shape == shape
            assert found.dtype == jnp.float32

    @pytest.mark.parametrize("name", DIVERGENCES)
    def test_any_function_in_single_precision(self, name):
        f, h = divergence(name)
        r = jnp.geomspace(0.1, 20.0, 301)
        np.testing.assert_allclose(jax.jit(from_function(f).h)(r), h(r), rtol=1e-4)
        narrow = from_function(f).h(r.astype(jnp.bfloat16))
        assert narrow.dtype == jnp.float32
        np.testing.assert_allclose(narrow, h(r.astype(jnp.bfloat16).astype(jnp.float32)), rtol=1e-4)

    def test_a_function_of_ones_own(self):
        """alpha-divergences: f'' r^2 = r^alpha; scale and c (r - 1) are free."""
        alpha = 0.3
        made = from_function(lambda r: (r**alpha - 1) / (alpha * (alpha - 1)) + 7.0 * (r - 1))
        np.testing.assert_allclose(made.h(jnp.asarray(RATIOS)), np.power(RATIOS, alpha), rtol=1e-4)
        inside = jax.jit(lambda r: from_function(lambda s: s * jnp.log(s)).h(r))(jnp.asarray(RATIOS))
        np.testing.assert_allclose(inside, RATIOS, rtol=1e-5)

    def test_weights_stay_above_zero_where_rounding_would_not(self):
        r = jnp.geomspace(20.0, 1e6, 1001)
        f = divergence("neyman").f
        assert float(jnp.min(jax.vmap(jax.grad(jax.grad(f)))(r))) < 0
        assert float(jnp.min(from_function(f).h(r))) >= 0

    def test_names(self):
        assert {divergence(short) for short in ALIASES} <= set(DIVERGENCES.values())
        with pytest.raises(ValueError, match=r"divergence.*'fkl'.*jensen_shannon"):
            divergence("fkl")

    @pytest.mark.parametrize("f", [jnp.log, lambda r: jnp.sqrt(r - 1)])
    def test_a_function_that_is_not_convex_is_refused(self, f):
        with pytest.raises(ValueError, match="convex"):
            from_function(f)
