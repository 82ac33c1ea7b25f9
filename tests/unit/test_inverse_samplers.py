"""Volumes through samplers: chunks and filling, states over steps, units, and single steps of each kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffax import EDM, VE, gaussian_denoiser, grids, inverse, sample
from diffax.inverse import LinearProblem, in_chunks
from diffax.operators import (
    LinearOperator,
    cartesian_mri,
    gradient,
    operator_norm,
    parallel_beam,
    real_images,
    scale,
)
from diffax.samplers import advance, begin, ddim, ddpm
from diffax.samplers.base import StepContext
from experiments.diffusion_mbir.method import diffusion_mbir

SHAPE, SLICES = (8, 8, 1), 6
VARIANCES = np.random.default_rng(0).uniform(0.3, 1.0, SHAPE).astype(np.float32)
EDM_GRID = grids.karras(EDM(), 6, final="zero")
VE_GRID = grids.uniform(VE(sigma_min=0.01, sigma_max=80.0), 6)


def volume_of(slices: int = SLICES, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (8, 8, slices)), jnp.float32)


@functools.cache
def _matrix():
    columns = parallel_beam((8, 8, 64), np.arange(5) * np.pi / 5, 12)(jnp.eye(64).reshape(8, 8, 64))
    return np.asarray(columns).reshape(60, 64)


def projector(slices: int) -> LinearOperator:
    """Five parallel views, as a matrix: it compiles faster than the projector."""
    matrix = jnp.asarray(_matrix())
    return LinearOperator(Partial(_views, matrix), Partial(_back, matrix), (8, 8, slices), (5, 12, slices))


def _views(matrix, x):
    return (matrix @ x.reshape(64, -1)).reshape(5, 12, -1)


def _back(matrix, y):
    return (matrix.T @ y.reshape(60, -1)).reshape(8, 8, -1)


def problem_of(slices: int = SLICES, seed: int = 0) -> LinearProblem:
    operator = projector(slices)
    noise = 0.05 * np.random.default_rng(seed + 1).normal(size=operator.out_shape)
    y = operator(volume_of(slices, seed)) + jnp.asarray(noise, jnp.float32)
    return inverse.normalise(LinearProblem(operator, y, 0.05))


def prior(process):
    return gaussian_denoiser(process, np.zeros(SHAPE, np.float32), VARIANCES)


def keys_of(n: int):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(n))


def recipe(name, problem, **changes):
    """The process, the grid and the sampler."""
    if name == "mbir":
        ve = VE(sigma_min=0.01, sigma_max=80.0)
        return ve, VE_GRID, diffusion_mbir(problem, weight=1e-2, rho=0.05, **changes)
    return EDM(), EDM_GRID, inverse.dds_volume(problem, **{"weight": 1e-2, "rho": 0.05, "n_cg": 3, **changes})


@functools.partial(jax.jit, static_argnames=("name", "size", "batch"))
def drawn(problem, name, size=None, batch=SLICES):
    process, grid, sampler = recipe(name, problem)
    denoise = prior(process) if size is None else in_chunks(size)(prior(process))
    return sample(keys_of(batch), denoise, process, sampler, grid, shape=SHAPE).x


class TestChunks:
    @pytest.mark.parametrize("size", [1, 4, 64])
    def test_the_size_does_not_matter(self, size):
        x = jnp.moveaxis(volume_of(), 2, 0)[..., None]
        t, seen = jnp.linspace(0.1, 2.0, SLICES), []

        def denoise(x, t, cond=None):
            seen.append(x.shape[0])
            return prior(EDM())(x, t) + cond["label"][:, None, None, None]

        cond = {"label": jnp.arange(SLICES)}
        np.testing.assert_allclose(in_chunks(size)(denoise)(x, t, cond), denoise(x, t, cond), atol=1e-6)
        assert seen[0] == min(size, SLICES)

    @pytest.mark.parametrize("name", ["dds", "mbir"])
    def test_inside_samplers_of_volumes(self, name):
        problem = problem_of()
        expected = np.asarray(drawn(problem, name))
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(drawn(problem, name, 1), expected, atol=1e-5)

    @pytest.mark.parametrize("name", ["dds", "mbir"])
    def test_filling_leaves_the_slices_as_they_are(self, name):
        problem = problem_of()
        filled = drawn(problem, name, 4, 8)
        assert filled.shape[0] == 8
        np.testing.assert_allclose(filled[:SLICES], drawn(problem, name), atol=1e-5)

    def test_a_size_below_one_is_named(self):
        with pytest.raises(ValueError, match="size: got 0"):
            in_chunks(0)


class TestSteps:
    @pytest.mark.parametrize("name", ["dds", "mbir"])
    def test_stretches_end_where_one_call_does(self, name):
        problem, keys = problem_of(), keys_of(SLICES)

        @functools.partial(jax.jit, static_argnums=2)
        def more(problem, state, n):
            process, grid, sampler = recipe(name, problem)
            return advance(keys, prior(process), process, sampler, grid, state, n)

        process, grid, sampler = recipe(name, problem)
        state = begin(keys, process, sampler, grid, shape=SHAPE)
        for n in (2, 2, 2):
            again = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state)  # as from a file
            before, state = more(problem, again, n), more(problem, state, n)
            jax.tree.map(np.testing.assert_array_equal, before, state)
        assert int(state.index) == 6
        # other programs round otherwise: not bit for bit
        np.testing.assert_allclose(state.x, drawn(problem, name), atol=2e-5)
        with pytest.raises(ValueError, match=r"n_steps: got 1, allowed: an integer in \[0, 0\]"):
            advance(keys, prior(process), process, sampler, grid, state, 1)

    def test_the_split_is_carried_from_step_to_step(self):
        """By hand: estimate, one sweep of ADMM from the split before, DDIM."""
        problem, keys = problem_of(), keys_of(SLICES)
        differences = gradient((8, 8, SLICES), ("z",))
        denoise, follow = prior(EDM()), ddim(0.85)
        state = begin(keys, EDM(), recipe("dds", problem)[2], EDM_GRID, shape=SHAPE)
        sweep = jax.jit(functools.partial(inverse.admm_sweep, weight=1e-2, rho=0.05, n_cg=3, isotropic=False))
        x, split = state.x, state.carry
        assert not np.asarray(split.z).any()
        assert not np.asarray(split.u).any()
        for i in range(6):
            t, s = EDM_GRID[i], EDM_GRID[i + 1]
            x0 = denoise(x, jnp.full(SLICES, t))
            images, split = sweep(problem, differences, jnp.moveaxis(x0[..., 0], 0, 2), split)
            refined = jnp.moveaxis(images, 2, 0)[..., None]
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            context = StepContext(lambda *_, r=refined: r, EDM(), step_keys, t, s, 6)
            x, _ = follow.step(context, x, ())
        assert np.asarray(split.u).any()
        np.testing.assert_allclose(drawn(problem, "dds"), x, atol=1e-4)

    def test_without_axes_slices_meet_in_the_steps_of_cg_only(self):
        """CG that has converged solves every slice by itself; a few steps share their lengths."""

        @functools.partial(jax.jit, static_argnames="n_cg")
        def run(problem, keys, n_cg):
            _, grid, sampler = recipe("dds", problem, axes=(), n_cg=n_cg, anchor=0.3)
            return sample(keys, prior(EDM()), EDM(), sampler, grid, shape=SHAPE).x

        problem, keys = problem_of(), keys_of(SLICES)
        size = operator_norm(projector(SLICES))
        first = scale(projector(1), 1 / size)
        alone, gaps = LinearProblem(first, problem.y[..., :1]), {}
        for n_cg in (2, 30):
            whole = run(problem, keys, n_cg)
            gaps[n_cg] = float(jnp.abs(run(alone, keys[:1], n_cg) - whole[:1]).max())
        assert gaps[30] < 1e-4
        assert gaps[2] > 1e-3

    def test_an_anchor_may_depend_on_the_time(self):
        problem = problem_of()
        run = lambda anchor: _dds_with(problem, anchor)  # noqa: E731
        constant = run(0.3)
        np.testing.assert_allclose(run(lambda process, t: 0.3 + 0 * t), constant, atol=1e-6)
        held = run(lambda process, t: 1e6 + 0 * t)  # holds x0_hat: the prior's own sampler
        free = jax.jit(
            lambda: sample(keys_of(SLICES), prior(EDM()), EDM(), ddim(0.85), EDM_GRID, shape=SHAPE).x
        )()
        np.testing.assert_allclose(held, free, atol=1e-3)
        assert np.abs(np.asarray(constant) - np.asarray(free)).max() > 0.05

    def test_two_problems_one_trace(self):
        traces = []

        @jax.jit
        def run(problem):
            traces.append(1)
            process, grid, sampler = recipe("dds", problem)
            return sample(keys_of(SLICES), prior(process), process, sampler, grid, shape=SHAPE).x

        first, second = (run(problem_of(seed=seed)) for seed in (0, 5))
        assert len(traces) == 1
        assert np.abs(np.asarray(first) - np.asarray(second)).max() > 0.01


def _dds_with(problem, anchor):
    @jax.jit
    def run(problem):
        _, grid, sampler = recipe("dds", problem, axes=(), anchor=anchor)
        return sample(keys_of(SLICES), prior(EDM()), EDM(), sampler, grid, shape=SHAPE).x

    return run(problem)


def matrix_of(problem):
    """The operator's matrix for one slice."""
    columns = jax.vmap(lambda v: problem.operator(v.reshape(8, 8, 1)).ravel())(jnp.eye(64))
    return np.asarray(columns, np.float64).T


def ridge(problem, weight):
    """``argmin |A x - y|^2 + weight |x|^2`` in closed form."""
    a, y = matrix_of(problem), np.asarray(problem.y, np.float64).ravel()
    return np.linalg.solve(a.T @ a + weight * np.eye(64), a.T @ y)


class TestUnits:
    def test_the_solution_is_kept(self):
        operator = projector(1)
        problem = LinearProblem(operator, operator(volume_of(1)), 0.05)
        expected, size = ridge(problem, 0.5), float(operator_norm(operator))
        unit = inverse.normalise(problem)
        assert float(operator_norm(unit.operator)) == pytest.approx(1.0, rel=1e-2)
        np.testing.assert_allclose(ridge(unit, 0.5 / size**2), expected, atol=1e-5)
        assert float(unit.noise_std) == pytest.approx(0.05 / size, rel=1e-5)
        white = inverse.whiten(problem)
        np.testing.assert_allclose(ridge(white, 0.5 / 0.05**2), expected, atol=1e-5)
        v = inverse.rescale(problem, 0.5, 0.5)  # x = (v + 1) / 2: |x|^2 is no ridge about v = 0
        x = jnp.linspace(-1, 1, 64).reshape(8, 8, 1)
        np.testing.assert_allclose(inverse.residual(v, x), inverse.residual(problem, (x + 1) / 2), atol=1e-5)
        assert v.noise_std == 0.05

    def test_balance_weighs_and_keeps_the_size(self):
        operator = projector(1)
        problem = LinearProblem(operator, operator(volume_of(1)), 0.05)
        assert inverse.balance(problem) is problem
        std = jnp.linspace(0.5, 4.0, problem.y.size).reshape(problem.y.shape)
        weighed = inverse.balance(problem._replace(noise_std=std), least=0.0)
        white = inverse.whiten(problem._replace(noise_std=std))
        assert float(weighed.noise_std) ** -2 == pytest.approx(float(jnp.mean(std**-2)), rel=1e-5)
        np.testing.assert_allclose(weighed.y / weighed.noise_std, white.y, rtol=1e-5)
        bounded = inverse.balance(problem._replace(noise_std=std))
        ratio = (bounded.y / problem.y)[problem.y != 0]
        assert float(ratio.max() / ratio.min()) == pytest.approx(
            4.0 / float(0.3 * jnp.sqrt(jnp.mean(std**2))), rel=0.05
        )
        same = inverse.balance(problem._replace(noise_std=jnp.full(problem.y.shape, 0.3)))
        np.testing.assert_allclose(same.y, problem.y, rtol=1e-6)
        assert float(same.noise_std) == pytest.approx(0.3)

    def test_unequal_noise_is_whitened_entry_by_entry(self):
        operator = projector(1)
        std = np.random.default_rng(0).uniform(0.1, 2.0, operator.out_shape).astype(np.float32)
        problem = LinearProblem(operator, operator(volume_of(1)), jnp.asarray(std))
        a, y = matrix_of(problem), np.asarray(problem.y, np.float64).ravel()
        weights = 1 / std.ravel() ** 2
        expected = np.linalg.solve(a.T @ (weights[:, None] * a) + np.eye(64), a.T @ (weights * y))
        np.testing.assert_allclose(ridge(inverse.whiten(problem), 1.0), expected, atol=1e-4)

    def test_errors_are_named(self):
        problem = problem_of()
        with pytest.raises(ValueError, match="noise_std: got 0"):
            inverse.whiten(problem._replace(noise_std=0.0))
        nothing = real_images(cartesian_mri(np.zeros((8, 8), bool), (8, 8, 1)))
        with pytest.raises(ValueError, match="operator: norm"):
            inverse.normalise(LinearProblem(nothing, jnp.zeros((8, 8, 1), jnp.complex64)))
        with pytest.raises(ValueError, match="x: shape"):
            inverse.to_images(problem, jnp.zeros((SLICES - 1, 8, 8, 1)))
        with pytest.raises(ValueError, match="x: shape"):
            inverse.to_images(problem, jnp.zeros((SLICES, 8, 7, 1)))
        with pytest.raises(ValueError, match="n_sweeps"):
            inverse.dds_volume(problem, weight=0.1, n_sweeps=0)

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_batches_and_images(self, channels):
        problem = problem_of()
        batch = jax.random.normal(jax.random.key(0), (SLICES // channels, 8, 8, channels))
        images = inverse.to_images(problem, batch)
        np.testing.assert_array_equal(images[:, :, channels], batch[1, :, :, 0])
        np.testing.assert_array_equal(inverse.to_batch(images, batch), batch)
        filled = jnp.concatenate([batch, jnp.full((2, 8, 8, channels), 7.0)])
        np.testing.assert_array_equal(inverse.to_images(problem, filled), images)
        np.testing.assert_array_equal(inverse.to_batch(images, filled), filled)


class TestSingleSteps:
    def test_the_step_of_sart_leaves_the_truth_where_it_is(self):
        problem, truth = problem_of(), volume_of()
        exact = problem._replace(y=problem.operator(truth))
        np.testing.assert_allclose(inverse.sart_step(exact, truth), truth, atol=1e-5)
        start = jnp.zeros_like(truth)
        before, after = (
            float(jnp.linalg.norm(inverse.residual(exact, v)))
            for v in (start, inverse.sart_step(exact, start))
        )
        assert after < 0.8 * before

    def test_dps_weighs_each_sample_by_its_own_misfit(self):
        @jax.jit
        def run(problem, keys):
            sampler = inverse.dps(problem, 0.5)
            return sample(keys, prior(EDM()), EDM(), sampler, EDM_GRID, shape=SHAPE).x

        operators = [projector(n) for n in (1, 2)]
        y = [operators[0](volume_of(1, seed) * size) for seed, size in ((0, 1.0), (1, 5.0))]
        both = run(LinearProblem(operators[1], jnp.concatenate(y, axis=-1)), keys_of(2))
        for i in range(2):
            alone = run(LinearProblem(operators[0], y[i]), keys_of(2)[i : i + 1])
            np.testing.assert_allclose(both[i : i + 1], alone, atol=1e-3)

    def test_replacement_puts_the_noised_measurements_in(self):
        """Of complex images that real ones are stand for, k-space has in its mask alpha y + sigma F z."""
        mask = np.random.default_rng(0).random((8, 8)) < 0.4
        operator = cartesian_mri(_symmetric(mask), (8, 8, SLICES))
        operator = real_images(operator)
        problem = LinearProblem(operator, operator(volume_of()))
        t = jnp.asarray(2.0)
        context = StepContext(lambda *_: None, EDM(), keys_of(SLICES), t, t / 2, 1)
        x = jax.random.normal(jax.random.key(1), (SLICES, *SHAPE))
        found, _ = inverse.replacement(problem, 1.0, 3).step(context, x, ())
        z = inverse.to_images(problem, context.noise(x))
        np.testing.assert_allclose(
            operator(inverse.to_images(problem, found)), problem.y + 2.0 * operator(z), atol=1e-4
        )
        kept = np.fft.fft2(np.asarray(found - x)[..., 0], norm="ortho")  # what is not measured stays
        outside = ~np.fft.ifftshift(_symmetric(mask))
        assert np.abs(kept[:, outside]).max() < 1e-4


def _symmetric(mask):
    """Real images measure -k where they measure k."""
    mirrored = np.roll(mask[::-1, ::-1], (1, 1), (0, 1))
    return mask | mirrored


def test_samples_agree_with_the_measurements():
    """Far better than samples of the prior do."""
    problem = problem_of()
    free = jax.jit(lambda: sample(keys_of(SLICES), prior(EDM()), EDM(), ddpm(), EDM_GRID, shape=SHAPE).x)()
    misfits = [
        float(jnp.linalg.norm(inverse.residual(problem, inverse.to_images(problem, x))))
        for x in (drawn(problem, "dds"), free)
    ]
    assert misfits[0] < 0.2 * misfits[1]
