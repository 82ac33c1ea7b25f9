"""Operators on images: the adjoint is the transpose, and norms and values are those of closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.operators import compose, dot_test
from diffax.operators.images import (
    blur,
    differences,
    downsample,
    gaussian_kernel,
    gradient,
    gradient_norm,
    masked,
)

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


@pytest.mark.parametrize("n", [2, 9])
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


# --- holes, blur, fewer pixels


def test_masked_keeps_what_is_seen():
    generator = np.random.default_rng(1)
    for mask_shape in ((4, 3), (4, 3, 2)):
        mask = generator.random(mask_shape) < 0.5
        forward = check(masked(mask, (4, 3, 2)))
        expected = np.broadcast_to(mask[..., None] if mask.ndim == 2 else mask, (4, 3, 2))
        np.testing.assert_array_equal(forward, np.diag(expected.ravel().astype(np.float32)))
    operator = masked(jnp.asarray(mask), (4, 3, 2), jnp.complex64)
    assert jax.jit(dot_test)(operator, KEY) <= 1e-6
    with pytest.raises(ValueError, match=r"mask: shape: got \(3, 4\), allowed: \(4, 3\) or \(4, 3, 2\)"):
        masked(np.ones((3, 4)), (4, 3, 2))
    with pytest.raises(ValueError, match=r"mask: got \[0.5\], allowed: booleans, or 0 and 1"):
        masked(np.full((4, 3), 0.5), (4, 3, 2))


def blurred(kernel, image, boundary):
    """The formula of the docstring, with loops."""
    (h, w), (rows, columns, _) = kernel.shape, image.shape
    result = np.zeros_like(image)
    for i, j, k, l in np.ndindex(rows, columns, h, w):
        m, n = i - k + h // 2, j - l + w // 2
        if boundary == "circular":
            m, n = m % rows, n % columns
        if 0 <= m < rows and 0 <= n < columns:
            result[i, j] += kernel[k, l] * image[m, n]
    return result


@pytest.mark.parametrize("boundary", ["circular", "zero"])
@pytest.mark.parametrize(("size", "shape"), [((3, 3), (5, 6, 2)), ((2, 5), (6, 5, 1)), ((4, 1), (4, 1, 2))])
def test_blur_is_a_convolution(boundary, size, shape):
    generator = np.random.default_rng(2)
    kernel, image = (generator.random(n).astype(np.float32) for n in (size, shape))
    operator = blur(kernel, shape, boundary)
    forward = check(operator)
    assert operator.out_shape == shape
    got = (forward @ image.ravel()).reshape(shape)
    np.testing.assert_allclose(got, blurred(kernel, image, boundary), rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(forward, 2) <= kernel.sum() * (1 + 1e-6)


def test_blur_dot_test_and_refusals():
    kernel = gaussian_kernel(0.8)
    for boundary in ("circular", "zero"):
        assert jax.jit(dot_test)(blur(kernel, (9, 8, 3), boundary), KEY) <= 1e-6
    with pytest.raises(ValueError, match=r"boundary: got 'reflect', allowed: one of circular, zero"):
        blur(kernel, (9, 8, 3), "reflect")
    with pytest.raises(ValueError, match=r"kernel: shape: got \(7, 7\), allowed: at most \(9, 6\)"):
        blur(kernel, (9, 6, 3))
    with pytest.raises(ValueError, match="dtype: got 'complex64', allowed: a real floating type"):
        blur(kernel, (9, 8, 3), "zero", jnp.complex64)


def test_gaussian_kernel():
    kernel = gaussian_kernel(1.5)
    assert kernel.shape == (11, 11)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    offsets = np.arange(11) - 5
    assert (kernel.sum(0) @ offsets**2) == pytest.approx(1.5**2, rel=0.01)
    assert gaussian_kernel(1.5, 3).shape == (3, 3)
    with pytest.raises(ValueError, match=r"sigma: got 0.0, allowed: above 0"):
        gaussian_kernel(0.0)
    with pytest.raises(ValueError, match="size: got 4, allowed: an odd number"):
        gaussian_kernel(1.0, 4)


@pytest.mark.parametrize(("factor", "shape"), [(1, (3, 2, 2)), (2, (4, 6, 3)), (3, (3, 9, 1))])
def test_downsample_takes_means(factor, shape):
    operator = downsample(factor, shape)
    forward = check(operator)
    assert operator.out_shape == (shape[0] // factor, shape[1] // factor, shape[2])
    np.testing.assert_allclose(forward.sum(1), 1, rtol=1e-6)
    assert np.isin(forward, [0, np.float32(1 / factor**2)]).all()
    assert np.linalg.norm(forward, 2) == pytest.approx(1 / factor, rel=1e-6)
    image = np.random.default_rng(3).random(shape)
    corner = (forward @ image.ravel()).reshape(operator.out_shape)[-1, -1, -1]
    assert corner == pytest.approx(image[-factor:, -factor:, -1].mean(), rel=1e-6)


def test_downsample_dot_test_and_refusals():
    assert jax.jit(dot_test)(downsample(3, (9, 6, 2)), KEY) <= 1e-6
    for factor in (0, 2, 4):
        with pytest.raises(ValueError, match=rf"factor: got {factor}, allowed: a divisor of rows and col"):
            downsample(factor, (9, 6, 2))


@pytest.mark.parametrize("boundary", ["circular", "zero"])
def test_derivatives_go_through_the_adjoint(boundary):
    operator = compose(downsample(2, (6, 8, 2)), blur(gaussian_kernel(0.5), (6, 8, 2), boundary))
    x, y = jnp.ones((6, 8, 2)), jnp.full((3, 4, 2), 0.3)
    got = jax.jit(jax.grad(lambda x: 0.5 * ((operator(x) - y) ** 2).sum()))(x)
    expected = jax.jit(lambda x: operator.adjoint(operator(x) - y))(x)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("float64")
def test_adjoints_in_double_precision():
    shape = (6, 8, 2)
    for operator in (
        gradient(shape, dtype=jnp.float64),
        blur(gaussian_kernel(0.5), shape, "circular", jnp.float64),
        blur(gaussian_kernel(0.5), shape, "zero", jnp.float64),
        downsample(2, shape, jnp.float64),
    ):
        forward, adjoint = matrices(operator)
        assert forward.dtype == jnp.float64
        np.testing.assert_allclose(adjoint, forward.T, atol=1e-14)
