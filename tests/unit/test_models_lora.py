"""Low-rank changes: none at first, of low rank later, of the matrices that were named alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.models.lora import init_lora, merge_lora

PARAMS = {
    "layers_0": {"query": {"kernel": jnp.arange(12.0).reshape(4, 3)}, "norm": {"scale": jnp.ones(4)}},
    "embed": jnp.ones((5, 4)),
}
NAME = "layers_0/query/kernel"


def test_nothing_changes_at_first():
    factors = init_lora(jax.random.key(0), PARAMS, 2)
    assert list(factors) == [NAME]
    merged = merge_lora(PARAMS, factors, 16.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), merged, PARAMS))


def test_changes_have_the_rank_and_the_scale_in_the_matrices_types():
    factors = init_lora(jax.random.key(0), PARAMS, 1)
    factors = {NAME: {**factors[NAME], "b": jnp.array([[1.0, -2.0, 0.5]])}}
    one, two = (merge_lora(PARAMS, factors, s)["layers_0"]["query"]["kernel"] for s in (1.0, 2.0))
    change = one - PARAMS["layers_0"]["query"]["kernel"]
    assert np.linalg.matrix_rank(np.asarray(change), tol=1e-5) == 1
    np.testing.assert_allclose(two - one, change, rtol=1e-5, atol=1e-6)
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    assert merge_lora(halves, factors)["layers_0"]["query"]["kernel"].dtype == jnp.bfloat16


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="rank: got 0"):
        init_lora(jax.random.key(0), PARAMS, 0)
    with pytest.raises(ValueError, match="pattern: got 'nothing'"):
        init_lora(jax.random.key(0), PARAMS, 1, "nothing")
    with pytest.raises(ValueError, match="factors: got 'other'"):
        merge_lora(PARAMS, {"other": {"a": jnp.ones((4, 1)), "b": jnp.ones((1, 3))}})
