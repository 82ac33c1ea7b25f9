"""Classical solvers against numpy in float64: steps of CG, pseudo-inverses, weighted least squares, TV."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pdhg
import pytest
from jax.tree_util import Partial

from diffax.inverse import LinearProblem, admm_tv, cg, cgls, fista_tv, shrink, sirt
from diffax.inverse.linear import iterate, settled
from diffax.operators import LinearOperator, parallel_beam, scale

# by tests/oracle/pdhg.py, 10 000 steps
OBJECTIVES = {
    "isotropic": 0.0657608,
    "isotropic, strong": 0.2864195,
    "anisotropic": 0.0722861,
    "anisotropic, strong": 0.3237941,
    "bounds": 0.1109439,
    "along z": 0.0493197,
    "volume": 0.2946413,
}
RNG = np.random.default_rng(0)


def _dense(matrix, x):
    return (matrix @ x.reshape(matrix.shape[1])).astype(x.dtype)


def dense_problem(matrix: np.ndarray, y: np.ndarray) -> LinearProblem:
    """``y = matrix x`` for images (columns, 1, 1)."""
    forward = Partial(_dense, jnp.asarray(matrix, jnp.float32))
    operator = LinearOperator(forward, None, (matrix.shape[1], 1, 1), (len(matrix),))
    return LinearProblem(operator, jnp.asarray(y, jnp.float32))


def spd(n: int = 12, kind: type = float) -> np.ndarray:
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(n, n)).astype(kind)
    if kind is complex:
        factor = factor + 1j * rng.normal(size=(n, n))
    return factor @ factor.conj().T / n + np.eye(n)


def cg_steps(matrix, b, n_steps):
    """Hestenes & Stiefel in numpy: x after every step."""
    x, r = np.zeros_like(b), b.copy()
    p, path = r.copy(), []
    for _ in range(n_steps):
        q, before = matrix @ p, np.vdot(r, r).real
        length = before / np.vdot(p, q).real
        x, r = x + length * p, r - length * q
        p = r + np.vdot(r, r).real / before * p
        path.append(x)
    return path


class TestConjugateGradients:
    @pytest.mark.parametrize("kind", [float, complex])
    def test_every_step_is_that_of_numpy(self, kind):
        matrix = spd(kind=kind)
        b = RNG.normal(size=12) + (1j * RNG.normal(size=12) if kind is complex else 0)
        single = jnp.asarray(matrix, jnp.complex64 if kind is complex else jnp.float32)
        run = jax.jit(lambda b, n: cg(lambda v: single @ v, b, n_steps=n).x, static_argnums=1)
        for n, expected in enumerate(cg_steps(matrix, b, 10), start=1):
            found = np.asarray(run(jnp.asarray(b, single.dtype), n))
            assert np.linalg.norm(found - expected) < 2e-5 * np.linalg.norm(expected), n

    def test_history_is_the_relative_residual_and_stops_at_tol(self):
        matrix, b = spd(), RNG.normal(size=12)
        single = jnp.asarray(matrix, jnp.float32)
        found = cg(lambda v: single @ v, jnp.asarray(b, jnp.float32), n_steps=30, tol=1e-2)
        path = cg_steps(matrix, b, 12)
        expected = [np.linalg.norm(b - matrix @ x) / np.linalg.norm(b) for x in path]
        done = int(found.n_steps)
        np.testing.assert_allclose(found.history[:done], expected[:done], rtol=1e-3, atol=1e-6)
        assert expected[done - 1] <= 1e-2 < expected[done - 2]
        assert np.isnan(np.asarray(found.history[done:])).all()

    def test_nothing_to_solve(self):
        zero = cg(lambda v: 2 * v, jnp.zeros(5), n_steps=7)
        assert not np.asarray(zero.x).any()
        start = jnp.ones(5)
        solved = cg(lambda v: 2 * v, 2 * start, start, n_steps=7)
        np.testing.assert_array_equal(solved.x, start)
        assert int(solved.n_steps) == 1

    def test_singular_systems_stay_in_their_range(self):
        """A rank of 15 in 40 dimensions, and tomography from 5 views: hundreds of steps too many."""
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.normal(size=(40, 15)))[0]
        run = jax.jit(lambda m, b: cg(lambda v: m @ v, b, n_steps=400).x)
        # conditions of 100 and 10, beside rounding of 1e-7
        for low, share in (*[(1e-2, 0.5)] * 6, (1e-1, 1e-4)):
            matrix = jnp.asarray(basis @ np.diag(np.geomspace(1, low, 15)) @ basis.T, jnp.float32)
            b = jnp.asarray(basis @ rng.normal(size=15), jnp.float32)
            found = np.asarray(run(matrix, b))
            expected = np.linalg.pinv(np.asarray(matrix, np.float64), rcond=1e-4) @ np.asarray(b)
            assert np.linalg.norm(found - expected) < share * np.linalg.norm(expected)
        operator = parallel_beam((12, 12, 1), np.arange(5) * np.pi / 5, 18)
        # as users compile it: with the tests' quicker code sums round more, b has 1e-6 outside of the range,
        # and steps too many drift (to 1.7 times the norm after 1500)
        usual = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
        truth = jnp.asarray(pdhg.truth_of((12, 12, 1)), jnp.float32)
        b = jax.jit(operator.normal, compiler_options=usual)(truth)
        run = partial(jax.jit, static_argnums=1, compiler_options=usual)(
            lambda b, n: cg(operator.normal, b, n_steps=n).x
        )
        few, many = (np.asarray(run(b, n)) for n in (60, 1500))
        assert np.linalg.norm(many) < 1.1 * np.linalg.norm(few)


class TestLeastSquares:
    def test_cgls_tends_to_the_solution_nearest_to_its_start(self):
        matrix, y, start = RNG.normal(size=(6, 10)), RNG.normal(size=6), RNG.normal(size=10)
        problem = dense_problem(matrix, y)
        found = cgls(problem, jnp.asarray(start, jnp.float32).reshape(10, 1, 1), n_steps=40).x
        expected = start + np.linalg.lstsq(matrix, y - matrix @ start, rcond=None)[0]
        np.testing.assert_allclose(np.asarray(found).ravel(), expected, atol=1e-4)
        np.testing.assert_allclose(
            np.asarray(cgls(problem, n_steps=40).x).ravel(), np.linalg.pinv(matrix) @ y, atol=1e-4
        )

    def test_damping_is_a_ridge_about_the_start(self):
        matrix, y, start = RNG.normal(size=(12, 8)), RNG.normal(size=12), RNG.normal(size=8)
        x = jnp.asarray(start, jnp.float32).reshape(8, 1, 1)
        found = jax.jit(lambda d: cgls(dense_problem(matrix, y), x, n_steps=30, damping=d).x)(
            jnp.asarray(0.7)
        )
        normal = matrix.T @ matrix + 0.7 * np.eye(8)
        expected = start + np.linalg.solve(normal, matrix.T @ (y - matrix @ start))
        np.testing.assert_allclose(np.asarray(found).ravel(), expected, atol=1e-4)

    def test_sirt_falls_to_weighted_least_squares(self):
        """More equations than unknowns; each weighs by the inverse of its row's sum."""
        shape = (5, 5, 1)
        operator = parallel_beam(shape, np.arange(12) * np.pi / 12, 8)
        basis = jnp.eye(25).reshape(5, 5, 25)
        matrix = np.asarray(parallel_beam(basis.shape, np.arange(12) * np.pi / 12, 8)(basis), np.float64)
        matrix = matrix.reshape(-1, 25)
        y = matrix @ pdhg.truth_of(shape).ravel() + 0.05 * RNG.normal(size=len(matrix))
        problem = LinearProblem(operator, jnp.asarray(y.reshape(operator.out_shape), jnp.float32))
        found = jax.jit(lambda p: sirt(p, n_steps=6000, relaxation=1.9))(problem)
        sums = matrix.sum(axis=1)
        root = np.sqrt(np.divide(1, sums, where=sums > 1e-6 * sums.max(), out=np.zeros_like(sums)))
        expected = np.linalg.lstsq(root[:, None] * matrix, root * y, rcond=None)[0]
        np.testing.assert_allclose(np.asarray(found.x).ravel(), expected, atol=2e-3)

    def test_the_residual_of_sirt_falls(self):
        shape = (12, 12, 2)
        operator = parallel_beam(shape, np.arange(6) * np.pi / 6, 18)
        problem = LinearProblem(operator, operator(jnp.asarray(pdhg.truth_of(shape), jnp.float32)))
        run = jax.jit(partial(sirt, n_steps=40))
        history = np.asarray(run(problem).history)
        assert (np.diff(history) < 0).all()
        assert history[-1] < 0.1 * history[0]
        change = -np.diff(history) / history[1:]
        early = sirt(problem, n_steps=40, tol=float(0.999 * change[19]))
        done = int(early.n_steps)
        assert 20 <= done < 40
        np.testing.assert_allclose(early.history[:done], history[:done], rtol=1e-5)
        assert np.isnan(np.asarray(early.history[done:])).all()


def tv_problem(shape) -> LinearProblem:
    """The projector, divided by its norm in float64, and the data of ``pdhg``."""
    arguments = pdhg.angles(shape), pdhg.detectors(shape)
    first = np.asarray(parallel_beam((*shape[:2], 1), *arguments)(jnp.ones((*shape[:2], 1))), np.float64)
    size = np.linalg.norm(first.ravel()) / np.linalg.norm(pdhg.matrix_of(shape).sum(axis=1))
    operator = scale(parallel_beam(shape, *arguments), 1 / float(size))
    return LinearProblem(operator, jnp.asarray(pdhg.data_of(shape).reshape(operator.out_shape), jnp.float32))


@partial(jax.jit, static_argnames=("solver", "axes", "isotropic", "bounds"))
def solve(problem, weight, solver, axes, isotropic, bounds=None):
    options = {} if bounds is None else {"bounds": bounds}
    return solver(problem, weight, axes=axes, isotropic=isotropic, **options)


def solved(name, solver):
    case = pdhg.CASES[name]
    axes = tuple("yxz"[axis] for axis in case.axes)
    weight = jnp.asarray(case.weight)
    return case, solve(tv_problem(case.shape), weight, solver, axes, case.isotropic, case.bounds)


class TestTotalVariation:
    @pytest.mark.parametrize("name", [n for n, case in pdhg.CASES.items() if case.bounds is None])
    def test_admm_reaches_the_objective_of_another_algorithm(self, name):
        """200 sweeps of 5 steps of CG, the default rho."""
        case, found = solved(name, admm_tv)
        value = pdhg.objective(case, np.asarray(found.x, np.float64))
        assert value == pytest.approx(OBJECTIVES[name], rel=1.5e-4)
        assert float(found.history[-1]) == pytest.approx(value, rel=1e-5)

    @pytest.mark.parametrize("name", pdhg.CASES)
    def test_fista_reaches_it_too(self, name):
        case, found = solved(name, fista_tv)
        x = np.asarray(found.x, np.float64)
        value = pdhg.objective(case, x)
        assert value == pytest.approx(OBJECTIVES[name], rel=5e-4)
        assert float(found.history[-1]) == pytest.approx(value, rel=1e-5)
        if case.bounds is not None:
            assert case.bounds[0] <= x.min() <= x.max() <= case.bounds[1] + 1e-6
            unbounded = OBJECTIVES["isotropic"]
            assert value > 1.01 * unbounded  # the bounds bind

    def test_the_reference_can_be_made_again(self):
        case = pdhg.CASES["isotropic"]
        found = pdhg.objective(case, pdhg.pdhg(case, 2000))
        assert found == pytest.approx(OBJECTIVES["isotropic"], rel=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", pdhg.CASES)
    def test_all_references_can_be_made_again(self, name):
        case = pdhg.CASES[name]
        assert pdhg.objective(case, pdhg.pdhg(case)) == pytest.approx(OBJECTIVES[name], rel=1e-6)

    @pytest.mark.parametrize("solver", [admm_tv, fista_tv])
    def test_flat_images_are_finite(self, solver):
        problem = tv_problem(pdhg.PLANE)
        empty = solve(
            problem._replace(y=jnp.zeros_like(problem.y)), jnp.asarray(2e-3), solver, ("x", "y"), True
        )
        np.testing.assert_array_equal(empty.x, 0)
        flat = problem._replace(y=problem.operator(jnp.full(pdhg.PLANE, 0.5)))
        found = solve(flat, jnp.asarray(2e-3), solver, ("x", "y"), True)
        np.testing.assert_allclose(found.x, 0.5, atol=2e-3)
        assert np.isfinite(np.asarray(found.history)).all()

    @pytest.mark.parametrize("solver", [admm_tv, fista_tv])
    def test_stopping_early(self, solver):
        problem = tv_problem(pdhg.PLANE)
        whole = solve(problem, jnp.asarray(2e-3), solver, ("x", "y"), True)
        early = jax.jit(lambda p: solver(p, 2e-3, axes=("x", "y"), tol=1e-3))(problem)
        done = int(early.n_steps)
        assert 1 < done < 200
        np.testing.assert_allclose(early.history[:done], whole.history[:done], rtol=1e-3)
        assert np.isnan(np.asarray(early.history[done:])).all()
        change = np.abs(np.diff(np.asarray(early.history[:done]))) / np.asarray(early.history[1:done])
        assert change[-1] < 1e-3 <= change[:-1].min()


def test_shrinking():
    d = jnp.asarray([[3.0, 0.0, 0.3], [4.0, 0.0, -0.4]]).reshape(2, 1, 1, 3)
    isotropic = np.asarray(shrink(d, 1.0)).reshape(2, 3)
    np.testing.assert_allclose(isotropic, [[2.4, 0, 0], [3.2, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(
        np.asarray(shrink(d, 0.35, False)).reshape(2, 3), [[2.65, 0, 0], [3.65, 0, -0.05]], rtol=1e-5
    )


@pytest.mark.parametrize("isotropic", [True, False])
def test_shrinking_by_nothing_is_the_identity_at_zero_too(isotropic):
    d = jnp.asarray([[0.0, 2.0], [0.0, -1.0]]).reshape(2, 1, 1, 2)
    np.testing.assert_array_equal(shrink(d, 0.0, isotropic), d)


def test_a_solver_that_never_settles_runs_to_its_end():
    _, history, count = iterate(lambda n: (n + 1, jnp.ones(())), jnp.zeros(()), 5, settled(0.0))
    assert int(count) == 5
    np.testing.assert_array_equal(history, 1)
