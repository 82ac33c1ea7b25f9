r"""What a linear operator is: a forward function, its adjoint, and the shapes between which they act.

Images stand with their slices last, ``(rows, columns, slices)``: an operator that acts on each slice alike
then moves whole rows of memory at once. A batch of colour images is ``(rows, columns, batch * channels)``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from diffax.checks import require

LinearFn = Callable[[Array], Array]


class LinearOperator:
    r"""``A`` and its adjoint ``A^H``, as a pytree: tables travel as arguments, not as constants of a program.

    Args:
      forward: ``x -> A x``. Make it a ``jax.tree_util.Partial(function, *tables)`` of a function defined
        once: then operators of equal shapes share a compiled program.
      adjoint: ``y -> A^H y``; None derives it, ``conj(A^T conj(y))`` with ``jax.linear_transpose`` (a
        gather then becomes a scatter, which is slow on a CPU).
      in_shape, out_shape: of x and of A x.
      dtype, out_dtype: of x and of A x; real or complex. ``out_dtype=None`` means the same.

    ``A(x)`` applies it. Reverse-mode derivatives use the adjoint, to any order; derivatives with respect to
    what is inside the operator, and forward mode, are not offered. ``vmap``, ``jit`` and ``scan`` work.
    Raises ``ValueError`` where x or y has another shape.
    """

    def __init__(
        self,
        forward: LinearFn,
        adjoint: LinearFn | None,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        dtype: Any = jnp.float32,
        out_dtype: Any = None,
    ) -> None:
        self._forward = _as_partial(forward)
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.dtype = jnp.dtype(dtype)
        self.out_dtype = self.dtype if out_dtype is None else jnp.dtype(out_dtype)
        self._adjoint = _as_partial(adjoint or self._transposed())

    def __call__(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """``A x``."""
        return self.forward(x)

    def forward(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """``A x``, shaped ``out_shape``."""
        require(jnp.shape(x) == self.in_shape, "operator: shape of x", jnp.shape(x), str(self.in_shape))
        return _apply(self._forward, self._adjoint, x)

    def adjoint(self, y: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """``A^H y``, shaped ``in_shape``."""
        require(jnp.shape(y) == self.out_shape, "operator: shape of y", jnp.shape(y), str(self.out_shape))
        return _apply(self._adjoint, self._forward, y)

    def normal(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """``A^H A x``."""
        return self.adjoint(self.forward(x))

    def _transposed(self) -> LinearFn:
        like = jax.ShapeDtypeStruct(self.in_shape, self.dtype)
        transpose = jax.linear_transpose(self._forward, like)
        return lambda y: jnp.conj(transpose(jnp.conj(y))[0])


def _flatten(operator: LinearOperator) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    about = (operator.in_shape, operator.out_shape, operator.dtype, operator.out_dtype)
    return (operator._forward, operator._adjoint), about


def _unflatten(about: tuple[Any, ...], functions: tuple[Any, ...]) -> LinearOperator:
    operator = object.__new__(LinearOperator)
    operator._forward, operator._adjoint = functions
    operator.in_shape, operator.out_shape, operator.dtype, operator.out_dtype = about
    return operator


jax.tree_util.register_pytree_node(LinearOperator, _flatten, _unflatten)


@jax.custom_vjp
def _apply(function: LinearFn, adjoint: LinearFn, x: Array) -> Array:
    return function(x)


def _apply_forward(function: LinearFn, adjoint: LinearFn, x: Array) -> tuple[Array, Any]:
    return function(x), (function, adjoint, jnp.zeros((), x.dtype))


def _apply_backward(saved: Any, cotangent: Array) -> tuple[None, None, Array]:
    """JAX's cotangents are transposed, not conjugated: ``A^T c = conj(A^H conj(c))``."""
    function, adjoint, like = saved
    back = jnp.conj(_apply(adjoint, function, jnp.conj(cotangent)))
    return None, None, (back if jnp.iscomplexobj(like) else back.real).astype(like.dtype)


_apply.defvjp(_apply_forward, _apply_backward)


def compose(outer: LinearOperator, inner: LinearOperator) -> LinearOperator:
    """``outer inner``, applied right to left; raises ``ValueError`` where the shapes between differ."""
    require(
        inner.out_shape == outer.in_shape, "compose: inner.out_shape", inner.out_shape, str(outer.in_shape)
    )
    forward = jax.tree_util.Partial(_in_turn, inner._forward, outer._forward)
    adjoint = jax.tree_util.Partial(_in_turn, outer._adjoint, inner._adjoint)
    return LinearOperator(forward, adjoint, inner.in_shape, outer.out_shape, inner.dtype, outer.out_dtype)


def scale(operator: LinearOperator, factor: float | Float[Array, "..."]) -> LinearOperator:
    """``factor A`` for a real number, or real factors that broadcast over ``A x`` (weights)."""
    forward = jax.tree_util.Partial(_scaled_after, operator._forward, jnp.asarray(factor))
    adjoint = jax.tree_util.Partial(_scaled_before, operator._adjoint, jnp.asarray(factor))
    return LinearOperator(
        forward, adjoint, operator.in_shape, operator.out_shape, operator.dtype, operator.out_dtype
    )


def identity(shape: Sequence[int], dtype: Any = jnp.float32) -> LinearOperator:
    """``x -> x``."""
    return LinearOperator(_same, _same, shape, shape, dtype)


def real_images(operator: LinearOperator) -> LinearOperator:
    """An operator on complex images restricted to real ones: the adjoint keeps the real part.

    ``Re<A x, y> = <x, Re(A^H y)>`` for real x: adjoint under the real inner product.
    """
    real = jnp.zeros((), operator.dtype).real.dtype
    forward = jax.tree_util.Partial(_of_real, operator._forward, jnp.zeros((), operator.dtype))
    adjoint = jax.tree_util.Partial(_to_real, operator._adjoint)
    return LinearOperator(forward, adjoint, operator.in_shape, operator.out_shape, real, operator.out_dtype)


def operator_norm(operator: LinearOperator, n_steps: int = 30) -> Float[Array, ""]:
    """The largest singular value ``||A||`` by power iteration on ``A^H A``, from below.

    Thirty steps come within a percent for tomography and MRI; start and result are deterministic.
    """
    require(n_steps >= 1, "n_steps", n_steps, "an integer >= 1")
    start = random_like(jax.random.key(0), operator.in_shape, operator.dtype)

    def step(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        x = operator.normal(state[0] / norm(state[0]))
        return x, norm(x)

    return jnp.sqrt(jax.lax.fori_loop(0, n_steps, step, (start, jnp.zeros_like(norm(start))))[1])


def dot_test(operator: LinearOperator, key: Key[Array, ""]) -> Float[Array, ""]:
    r"""``|<A x, y> - <x, A^H y>| / (||A x|| ||y||)`` for random x and y: zero up to rounding.

    x and y are uniform on [0, 1] (times a random phase where complex): with normal numbers both products
    are nearly zero, and a wrong scale hardly shows.
    """
    first, second = jax.random.split(key)
    x = random_like(first, operator.in_shape, operator.dtype)
    y = random_like(second, operator.out_shape, operator.out_dtype)
    image = operator.forward(x)
    left, right = inner(image, y), inner(x, operator.adjoint(y))
    if not jnp.issubdtype(operator.dtype, jnp.complexfloating):
        left, right = left.real, right.real
    return jnp.abs(left - right) / (norm(image) * norm(y))


def random_like(key: Key[Array, ""], shape: Sequence[int], dtype: Any) -> Shaped[Array, "..."]:
    """Uniform numbers in [0, 1], each with a random phase where the type is complex."""
    first, second = jax.random.split(key)
    real = jnp.zeros((), dtype).real.dtype
    size = jax.random.uniform(first, tuple(shape), real)
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return size
    return size * jnp.exp(2j * math.pi * jax.random.uniform(second, tuple(shape), real))


def inner(x: Shaped[Array, "..."], y: Shaped[Array, "..."]) -> Shaped[Array, ""]:
    """``<x, y> = sum conj(x) y``."""
    return jnp.vdot(x, y)


def norm(x: Shaped[Array, "..."]) -> Float[Array, ""]:
    """``sqrt(<x, x>)`` of an array of any shape."""
    return jnp.sqrt(inner(x, x).real)


def _as_partial(function: LinearFn) -> LinearFn:
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)


def _same(x: Array) -> Array:
    return x


def _in_turn(first: LinearFn, second: LinearFn, x: Array) -> Array:
    return second(first(x))


def _scaled_after(function: LinearFn, factor: Array, x: Array) -> Array:
    y = function(x)
    return (factor * y).astype(y.dtype)


def _scaled_before(function: LinearFn, factor: Array, y: Array) -> Array:
    return function((factor * y).astype(y.dtype))


def _of_real(function: LinearFn, like: Array, x: Array) -> Array:
    return function(x.astype(like.dtype))


def _to_real(function: LinearFn, y: Array) -> Array:
    return function(y).real
