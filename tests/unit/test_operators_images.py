"""Operators on images: the adjoint is the transpose, and norms and values are those of closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.operators import dot_test
from diffax.operators.images import differences, gradient, gradient_norm

KEY = jax.random.key(3)


@jax.jit
def matrices(operator):
    """The matrices of an operator and its adjoint, by applying them to each unit image."""
    tables = []
    for function, shape in ((operator.forward, operator.in_shape), (operator.adjoint, operator.out_shape)):
        size = math.prod(shape)
        tables.append(jax.vmap(function)(jnp.eye(size).reshape(-1, *shape)).reshape(size, -1).T)
    return tables


def check(operator):
    """The adjoint's matrix against the transposed one, which is returned."""
    forward, adjoint = (np.asarray(a) for a in matrices(operator))
    np.testing.assert_allclose(adjoint, forward.T, atol=1e-6)
    return forward


# --- differences

SHAPES = [(4, 5, 3), (5, 2, 1), (1, 1, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("axis", "number"), [("y", 0), ("x", 1), ("z", 2)])
def test_differences_are_those_of_neighbours(shape, axis, number):
    operator = differences(shape, axis)
    forward = check(operator)
    assert operator.out_shape == shape
    x = np.random.default_rng(0).normal(size=shape)
    got = np.moveaxis((forward @ x.ravel()).reshape(shape), number, 0)
    np.testing.assert_allclose(got[:-1], np.diff(np.moveaxis(x, number, 0), axis=0), atol=1e-12)
    np.testing.assert_array_equal(got[-1], 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_dot_test_of_differences(dtype):
    assert jax.jit(dot_test)(gradient((5, 4, 3), dtype=dtype), KEY) <= 1e-6


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_norm_of_differences_is_the_closed_form(n):
    norms = np.linalg.norm(check(differences((1, n, 1), "x")), 2)
    assert norms == pytest.approx(2 * math.cos(math.pi / (2 * n)), rel=1e-6)
    assert gradient_norm((1, n, 1), ("x",)) == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("axes", [("x", "y", "z"), ("z",), ("z", "x")])
def test_gradient_stacks_the_differences(axes):
    for shape in SHAPES[::2]:
        operator = gradient(shape, axes)
        forward = check(operator)
        assert operator.out_shape == (len(axes), *shape)
        singles = np.concatenate([matrices(differences(shape, axis))[0] for axis in axes])
        np.testing.assert_array_equal(forward, singles)
        exact = np.linalg.norm(forward, 2)
        assert gradient_norm(shape, axes) == pytest.approx(exact, rel=1e-5, abs=1e-6)
        assert exact <= 2 * math.sqrt(len(axes))


def test_differences_do_not_scatter_and_share_a_program():
    traces = []

    @jax.jit
    def normal(operator, x):
        traces.append(1)
        return operator.normal(x)

    for _ in range(2):
        normal(gradient((4, 5, 3)), jnp.ones((4, 5, 3)))
    assert len(traces) == 1
    x = jnp.ones((4, 5, 3))
    energy = jax.make_jaxpr(jax.grad(lambda x: (gradient((4, 5, 3))(x) ** 2).sum()))
    assert "scatter" not in str(energy(x))
    assert "gather" not in str(energy(x))


def test_differences_refuse_and_name():
    with pytest.raises(ValueError, match=r"axis: got 'w', allowed: one of x, y, z"):
        differences((4, 4, 4), "w")
    with pytest.raises(ValueError, match=r"shape: got \(4, 4\), allowed: \(rows, columns, slices\)"):
        differences((4, 4), "x")
    for axes in ((), ("x", "x"), ("w",)):
        with pytest.raises(ValueError, match=r"axes: got .*allowed: one or several of x, y, z, each once"):
            gradient((4, 4, 4), axes)
