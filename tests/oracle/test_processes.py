"""Processes against published closed forms, quadrature and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes_under_test import PROCESSES
from scipy import stats
from scipy.integrate import quad

from diffax import (
    VE,
    VP,
    Cosine,
    FromTable,
    RectifiedFlow,
    SubVP,
    bridge,
    convert,
    drift_diffusion,
    gaussian_denoiser,
    grids,
    marginal,
    prior_log_prob,
    prior_sample,
    tables,
    times,
)
from diffax.processes import TARGETS, bisect_time, perturb, perturb_noisy, transition

all_processes = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


@pytest.mark.usefixtures("float64")
class TestClosedForms:
    """The published drift and diffusion, in double precision."""

    t = np.linspace(0.01, 0.99, 37)

    def test_vp(self):
        f, g2 = drift_diffusion(VP(), self.t)
        beta = 0.1 + self.t * 19.9
        np.testing.assert_allclose(f, -0.5 * beta, rtol=1e-9)
        np.testing.assert_allclose(g2, beta, rtol=1e-9)

    def test_sub_vp(self):
        f, g2 = drift_diffusion(SubVP(), self.t)
        beta, integral = (
            0.1 + self.t * 19.9,
            np.array([quad(lambda s: 0.1 + 19.9 * s, 0, t)[0] for t in self.t]),
        )
        np.testing.assert_allclose(f, -0.5 * beta, rtol=1e-9)
        np.testing.assert_allclose(g2, beta * (1 - np.exp(-2 * integral)), rtol=1e-9)

    def test_ve(self):
        process = VE(0.01, 50.0)
        f, g2 = drift_diffusion(process, self.t)
        np.testing.assert_allclose(f, 0.0, atol=1e-12)
        expected = (0.01 * 5000.0**self.t) ** 2 * 2 * np.log(5000.0)
        np.testing.assert_allclose(g2, expected, rtol=1e-9)

    def test_rectified_flow(self):
        f, g2 = drift_diffusion(RectifiedFlow(), self.t)
        np.testing.assert_allclose(f, -1 / (1 - self.t), rtol=1e-9)
        np.testing.assert_allclose(g2, 2 * self.t / (1 - self.t), rtol=1e-9)

    @pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
    def test_a_table_is_exact_at_its_points(self, name):
        table = getattr(tables, name)(1000)
        process = FromTable(table)
        t = (np.arange(1000) + 1) / 1000
        np.testing.assert_allclose(process.alpha(t) ** 2, table, rtol=1e-9)
        np.testing.assert_allclose(process.sigma(t) ** 2, 1 - table, rtol=1e-9)

    def test_a_fine_linear_table_tends_to_the_vp_sde(self):
        n = 20_000
        process = FromTable(tables.linear(n, 0.1 / n, 20.0 / n))
        np.testing.assert_allclose(process.alpha(self.t), VP().alpha(self.t), rtol=2e-2 * 20 / n * 100)


def test_sub_vp_in_single_precision():
    t = np.linspace(0.01, 1.0, 50, dtype=np.float32)
    f, g2 = drift_diffusion(SubVP(), t)
    beta = 0.1 + 19.9 * t.astype(np.float64)
    integral = 0.1 * t.astype(np.float64) + 9.95 * t.astype(np.float64) ** 2
    np.testing.assert_allclose(f, -0.5 * beta, rtol=1e-5)
    np.testing.assert_allclose(g2, beta * -np.expm1(-2 * integral), rtol=1e-5)


@all_processes
def test_forward_sde_keeps_the_marginals(process):
    """Integrate the moments ``m' = f m``, ``v' = 2 f v + g^2`` numerically from t_min."""
    from scipy.integrate import solve_ivp

    start, stop = float(process.t_min), float(process.t_max) * 0.9
    start = max(start, 0.01 * stop)
    with jax.enable_x64(True):
        coefficients = jax.jit(lambda t: drift_diffusion(process, t))

        def moments(t, y):
            f, g2 = (float(c) for c in coefficients(t))
            return [f * y[0], 2 * f * y[1] + g2]

        y0 = [float(process.alpha(start)), float(process.sigma(start)) ** 2]
        solution = solve_ivp(moments, (start, stop), y0, rtol=1e-8, atol=1e-12, max_step=0.01 * stop)
        mean, variance = solution.y[:, -1]
        assert mean == pytest.approx(float(process.alpha(stop)), rel=1e-4)
        assert variance == pytest.approx(float(process.sigma(stop)) ** 2, rel=1e-4)


@all_processes
def test_bridge_is_bayes_rule_by_quadrature(process):
    s, t = (float(process.t_min + u * (process.t_max - process.t_min)) for u in (0.35, 0.6))
    x0, xt = 0.4, 0.9 * float(process.sigma(t)) + 0.4 * float(process.alpha(t))
    scale, variance = (float(c) for c in transition(process, s, t))
    # the transition itself from the marginals: alpha_t = a alpha_s, sigma_t^2 = a^2 sigma_s^2 + v
    assert scale * float(process.alpha(s)) == pytest.approx(float(process.alpha(t)), rel=1e-5)
    total = scale**2 * float(process.sigma(s)) ** 2 + variance
    assert total == pytest.approx(float(process.sigma(t)) ** 2, rel=1e-5)
    center, width = float(process.alpha(s)) * x0, float(process.sigma(s))
    grid = np.linspace(center - 12 * width, center + 12 * width, 200_001)
    log_density = stats.norm.logpdf(grid, center, width) + stats.norm.logpdf(
        xt, scale * grid, np.sqrt(variance)
    )
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = (density * grid).sum()
    c_xt, c_x0, var = (float(c) for c in bridge(process, s, t))
    assert c_xt * xt + c_x0 * x0 == pytest.approx(mean, rel=1e-4, abs=1e-4)
    assert var == pytest.approx((density * (grid - mean) ** 2).sum(), rel=1e-3)


@all_processes
def test_bridge_to_zero_is_the_data(process):
    c_xt, c_x0, var = bridge(process, process.t_zero, 0.5)
    np.testing.assert_allclose([float(c_xt), float(c_x0), float(var)], [0.0, 1.0, 0.0], atol=1e-6)


@all_processes
def test_time_inverts_log_snr(process):
    t = grids.uniform(process, 63)
    recovered = process.time(marginal(process, t).log_snr)
    np.testing.assert_allclose(recovered, t, rtol=2e-4, atol=2e-6)
    by_bisection = bisect_time(lambda t: marginal(process, t).log_snr, marginal(process, t).log_snr,
                               process.t_min, process.t_max)  # fmt: skip
    np.testing.assert_allclose(by_bisection, t, rtol=2e-4, atol=2e-5)


@all_processes
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", TARGETS)
def test_conversions_round_trip(process, source, target):
    key = jax.random.key(0)
    x0, eps = jax.random.normal(key, (2, 64, 3))
    t = jnp.linspace(0.2, 0.8, 64) * process.t_max
    x = perturb(process, x0, eps, t)
    value = convert(process, x0, x, t, source="x0", target=source)
    there = convert(process, value, x, t, source=source, target=target)
    back = convert(process, there, x, t, source=target, target=source)
    # relative to the size of what is converted: x0 from eps at sigma = 60 has 60 times eps' rounding
    alpha, sigma, _ = marginal(process, t)
    size = jnp.maximum(1.0, jnp.maximum(sigma / alpha, alpha / sigma))[:, None]
    norm = jnp.maximum(jnp.abs(value), 1.0) * size
    assert float(jnp.max(jnp.abs(back - value) / norm)) < 1e-5


def test_conversions_against_hand_computed_values():
    """alpha = 0.6, sigma = 0.8 at one point of rectified flow's sibling: x0 = 2, eps = -1 gives x = 0.4."""
    process = FromTable(np.array([0.9, 0.36]))
    t, x = jnp.ones(1), jnp.array([[0.4]])
    x0 = jnp.array([[2.0]])

    def to(target):
        return float(convert(process, x0, x, t, source="x0", target=target)[0, 0])

    assert to("eps") == pytest.approx(-1.0, abs=1e-6)
    assert to("score") == pytest.approx(1.25, abs=1e-6)
    assert to("v") == pytest.approx(0.6 * -1 - 0.8 * 2, abs=1e-6)


def test_velocity_is_the_paths_derivative():
    """Against a finite difference of x_t along a fixed (x0, eps)."""
    with jax.enable_x64(True):
        for process in PROCESSES.values():
            x0, eps = jnp.array([[0.3]]), jnp.array([[-1.2]])
            t = jnp.array([0.4123 * process.t_max])
            h = 1e-6 * process.t_max
            slope = (perturb(process, x0, eps, t + h) - perturb(process, x0, eps, t - h)) / (2 * h)
            x = perturb(process, x0, eps, t)
            velocity = convert(process, x0, x, t, source="x0", target="velocity")
            np.testing.assert_allclose(velocity, slope, rtol=1e-5)


@all_processes
def test_prior_density_and_draws(process):
    shape, n = (3,), 20_000
    keys = jax.random.split(jax.random.key(1), n)
    x = prior_sample(process, keys, shape, mean=0.5, var=4.0)
    alpha, sigma, _ = (float(v) for v in marginal(process, process.t_max))
    std = np.sqrt(4 * alpha**2 + sigma**2)
    assert float(x.std()) == pytest.approx(std, rel=0.02)
    assert float(x.mean()) == pytest.approx(0.5 * alpha, abs=0.02 * std)
    expected = stats.norm.logpdf(np.asarray(x[:50]), 0.5 * alpha, std).sum(axis=1)
    np.testing.assert_allclose(prior_log_prob(process, x[:50], 0.5, 4.0), expected, rtol=1e-4)


def test_ve_starts_from_its_own_width():
    x = prior_sample(VE(sigma_max=50.0), jax.random.split(jax.random.key(2), 5000), (4,))
    assert float(x.std()) == pytest.approx(50.0, rel=0.02)


@all_processes
@pytest.mark.parametrize("final", ["t_min", "zero"])
@pytest.mark.parametrize("name", ["uniform", "karras", "log_snr"])
def test_grids_decrease_and_keep_their_ends(process, name, final):
    grid = np.asarray(getattr(grids, name)(process, 12, final=final))
    assert grid.shape == (13,)
    assert np.all(np.diff(grid) < 0)
    assert grid[0] == pytest.approx(float(process.t_max), rel=1e-6)
    assert grid[-1] == pytest.approx(process.t_min if final == "t_min" else process.t_zero)
    if final == "zero":
        assert grid[-2] == pytest.approx(float(process.t_min), rel=1e-3, abs=1e-6)


def test_karras_levels_are_those_of_the_paper():
    """Levels printed by the formula of EDM, eq. 5, for n = 5, evaluated by hand in double precision."""
    grid = np.asarray(grids.karras(PROCESSES["EDM"], 5, final="zero"))
    np.testing.assert_allclose(grid, [80.0, 17.5278, 2.5152, 0.1698, 0.002, 0.0], rtol=2e-3)


def test_table_grids():
    process = PROCESSES["FromTable"]
    np.testing.assert_allclose(1000 * grids.trailing(process, 4), [1000, 750, 500, 250, 0], atol=1e-3)
    np.testing.assert_allclose(1000 * grids.leading(process, 4), [751, 501, 251, 1, 0], atol=1e-3)
    np.testing.assert_allclose(1000 * grids.from_indices(process, [9, 3]), [10, 4, 0], atol=1e-3)
    short = FromTable(tables.linear(200))
    np.testing.assert_allclose(200 * grids.trailing(short, 4), [200, 150, 100, 50, 0], atol=1e-3)
    np.testing.assert_allclose(grids.trailing(PROCESSES["EDM"], 4), [80, 60, 40, 20, 0], atol=1e-3)
    assert [grids.trailing(process, n).shape[0] for n in (3, 7, 300, 999)] == [4, 8, 301, 1000]


@pytest.mark.parametrize(
    "name",
    ["uniform", "stratified", "antithetic", "logit_normal", "log_normal", "log_logistic", "log_snr_uniform"],
)
def test_training_times_stay_inside(name):
    for process in PROCESSES.values():
        t = np.asarray(getattr(times, name)()(jax.random.key(0), process, 257))
        assert t.shape == (257,)
        assert np.all((t >= process.t_min) & (t <= process.t_max))


def test_training_times_have_their_distribution():
    key, n, process = jax.random.key(3), 4000, VP()
    unit = (np.asarray(times.uniform()(key, process, n)) - 1e-3) / 0.999
    assert stats.kstest(unit, "uniform").pvalue > 0.01
    spread = (np.sort(np.asarray(times.stratified()(key, process, n))) - 1e-3) / 0.999
    assert np.max(np.abs(np.diff(spread) - 1 / n)) < 1e-4
    pairs = (np.asarray(times.antithetic()(key, process, n)) - 1e-3) / 0.999
    np.testing.assert_allclose(pairs[: n // 2] + pairs[n // 2 :], 1.0, atol=1e-5)
    edm = PROCESSES["EDM"]
    log_sigma = np.log(np.asarray(times.log_normal(-1.2, 1.2)(key, edm, n)))
    assert stats.kstest(log_sigma, "norm", (-1.2, 1.2)).pvalue > 0.01
    logit = np.asarray(times.logit_normal(0.5, 0.7)(key, process, n), np.float64)
    logit = (logit - 1e-3) / 0.999
    assert stats.kstest(np.log(logit / (1 - logit)), "norm", (0.5, 0.7)).pvalue > 0.01
    heavy = np.log(np.asarray(times.log_logistic(0.4, 2.0)(key, edm, n), np.float64))
    ends = stats.logistic.cdf(np.log([0.002, 80]), 0.4, 2.0)  # a scale at which the ends cut 8 % off
    assert ends[0] + 1 - ends[1] > 0.08
    rank = (stats.logistic.cdf(heavy, 0.4, 2.0) - ends[0]) / (ends[1] - ends[0])
    assert stats.kstest(rank, "uniform").pvalue > 0.01
    levels = np.asarray(times.discrete([0.1, 0.5])(key, process, n))
    assert abs((levels > 0.3).mean() - 0.5) < 0.04


def test_parameters_are_leaves_and_do_not_retrace():
    traces = []

    @jax.jit
    def sigma(process, t):
        traces.append(1)
        return process.sigma(t)

    for beta_max in (10.0, 15.0, 20.0):
        sigma(VP(beta_max=beta_max), 0.5)
    assert len(traces) == 1
    gradient = jax.grad(lambda process: VP.sigma(process, 0.5))(VP())
    assert isinstance(gradient, VP)
    assert gradient.beta_max > 0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VP(beta_min=-1.0), "beta_min"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: VP(t_min=0.0), "t_min"),
        (lambda: RectifiedFlow(t_max=1.5), "t_max"),
        (lambda: FromTable(np.array([0.5, 0.6])), "alpha_bar"),
        (lambda: FromTable(np.array([0.5, np.nan])), "alpha_bar"),
        (lambda: grids.uniform(VP(), 0), "n"),
        (lambda: grids.uniform(VP(), 5, final="end"), "final"),
        (lambda: grids.karras(VP(), 5, rho=-1.0), "rho"),
        (lambda: grids.trailing(VP(), 2000), "n"),
        (lambda: grids.from_indices(VP(), [3, 9]), "indices"),
        (lambda: grids.validate(VP(), np.array([0.1, 0.5])), "grid"),
        (lambda: grids.validate(VP(), np.array([1.5, 0.5])), "grid"),
        (lambda: tables.from_betas(np.array([0.5, 1.5])), "betas"),
        (
            lambda: convert(VP(), jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1), source="x", target="x0"),
            "x",
        ),
    ],
)
def test_bad_input_is_named(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def test_a_second_acquisition_teaches_the_clean_mean():
    """Regressing it on x_t gives the slope and offset of the exact denoiser of clean images."""
    process, std, n = Cosine(), 0.2, 200_000
    mean, variance = 0.3, 0.2
    keys = jax.random.split(jax.random.key(1), 4)
    x0 = mean + variance**0.5 * jax.random.normal(keys[0], (n, 1))
    first, second = (x0 + std * jax.random.normal(key, x0.shape) for key in keys[1:3])
    at = times.of_level(process, jnp.asarray(0.5))
    x = perturb_noisy(process, first, jax.random.normal(keys[3], x0.shape), jnp.full(n, at), std)
    alpha, sigma, _ = marginal(process, at)
    assert float(jnp.std(x - alpha * x0)) == pytest.approx(float(sigma), rel=0.01)
    slope, offset = np.polyfit(np.asarray(x)[:, 0], np.asarray(second)[:, 0], 1)
    exact = gaussian_denoiser(process, mean, variance)
    two = exact(jnp.array([[0.0], [1.0]]), jnp.full(2, at), None)[:, 0]
    assert offset == pytest.approx(float(two[0]), abs=0.01)
    assert slope == pytest.approx(float(two[1] - two[0]), rel=0.02)


def test_an_acquisition_with_more_noise_than_its_step_gets_none():
    process, y = Cosine(), jnp.ones((1, 3))
    t = times.of_level(process, jnp.asarray(0.1))[None]
    found = perturb_noisy(process, y, jnp.ones_like(y), t, 0.2)
    np.testing.assert_allclose(found, process.alpha(t)[:, None] * y)
