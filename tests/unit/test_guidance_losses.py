"""Guidance and losses against exact posteriors, hand counts and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import (
    EDM,
    VE,
    VP,
    RectifiedFlow,
    bind,
    convert,
    gaussian_denoiser,
    grids,
    marginal,
    mixture_denoiser,
    precondition,
    sample,
    times,
)
from diffax.denoisers import mixture_log_prob
from diffax.guidance import (
    autoguidance,
    classifier,
    classifier_free,
    compose,
    dynamic_threshold,
    interval,
    static_threshold,
)
from diffax.losses import denoising_loss, drop_labels, score_matching_loss, weighting
from diffax.processes import perturb
from diffax.samplers import ddpm, heun, inpaint

PROCESS = VP()
MEANS = jnp.array([[-1.0], [1.0]])


def conditional(calls=None):
    """Two classes, N(-1, 0.1) and N(1, 0.1), and their mixture where ``unconditional``."""
    parts = [gaussian_denoiser(PROCESS, mean, 0.1) for mean in MEANS]
    whole = mixture_denoiser(PROCESS, [0.5, 0.5], MEANS, [0.1, 0.1])

    def denoise(x, t, cond):
        if calls is not None:
            calls.append(x.shape[0])
        first, second = (part(x, t, None) for part in parts)
        chosen = jnp.where(cond["label"][:, None] == 0, first, second)
        flags = cond.get("unconditional", jnp.zeros(x.shape[0], bool))
        return jnp.where(flags[:, None], whole(x, t, None), chosen)

    return denoise


def ends(denoise, labels, n=10):
    keys = jax.random.split(jax.random.key(0), len(labels))
    grid = grids.log_snr(PROCESS, n)
    return sample(keys, denoise, PROCESS, heun(), grid, shape=(1,), cond={"label": labels}).x


LABELS = jnp.arange(64) % 2


def test_a_sample_without_a_condition_has_none_at_any_scale():
    plain, x, t = conditional(), jnp.linspace(-1, 1, 4)[:, None], jnp.full(4, 0.5)
    cond = {"label": jnp.zeros(4, int), "unconditional": jnp.array([True, False, True, False])}
    guided = classifier_free(3.0)(plain)(x, t, cond)
    without = plain(x, t, {**cond, "unconditional": jnp.ones(4, bool)})
    same = jnp.isclose(guided, without, atol=1e-6)[:, 0]
    np.testing.assert_array_equal(same, cond["unconditional"])


def test_scale_one_is_conditional_and_zero_unconditional():
    plain = conditional()
    np.testing.assert_allclose(ends(classifier_free(1.0)(plain), LABELS), ends(plain, LABELS), atol=1e-5)
    ignoring = lambda x, t, c: plain(x, t, {**c, "unconditional": jnp.ones(x.shape[0], bool)})  # noqa: E731
    np.testing.assert_allclose(ends(classifier_free(0.0)(plain), LABELS), ends(ignoring, LABELS), atol=1e-5)


def test_four_scales_one_trace_one_call_a_step():
    calls, traces = [], []

    @jax.jit
    def run(scale):
        traces.append(1)
        return ends(classifier_free(scale)(conditional(calls)), LABELS)

    for scale in (0.0, 1.0, 2.0, 4.0):
        run(scale)
    assert len(traces) == 1
    # Heun calls the denoiser at two places of the traced step: each is one batched call
    assert calls == [128, 128]


def test_guidance_is_linear_in_eps_too():
    """Mixing eps instead of x0 gives the same estimate."""
    x, t = jnp.linspace(-2, 2, 8)[:, None], jnp.full(8, 0.4)
    cond = {"label": jnp.zeros(8, int)}
    plain = conditional()

    def eps(unconditional):
        x0 = plain(x, t, {**cond, "unconditional": jnp.full(8, unconditional)})
        return convert(PROCESS, x0, x, t, source="x0", target="eps")

    mixed = eps(True) + 3.0 * (eps(False) - eps(True))
    expected = convert(PROCESS, mixed, x, t, source="eps", target="x0")
    np.testing.assert_allclose(classifier_free(3.0)(plain)(x, t, cond), expected, atol=1e-5)


def test_null_entries_for_other_conventions():
    def denoise(x, t, cond):
        return x * cond["strength"][:, None]

    x, t = jnp.ones((4, 1)), jnp.full(4, 0.5)
    guided = classifier_free(3.0, null={"strength": jnp.asarray(0.0)})(denoise)
    np.testing.assert_allclose(guided(x, t, {"strength": jnp.full(4, 2.0)}), 6.0)
    with pytest.raises(ValueError, match="null"):
        classifier_free(3.0, null={"text": jnp.asarray(0.0)})(denoise)(x, t, {"strength": jnp.ones(4)})
    with pytest.raises(ValueError, match="cond"):
        classifier_free(3.0)(denoise)(x, t, None)


def test_rescale_restores_the_spread():
    def denoise(x, t, cond):
        return jnp.where(cond["unconditional"][:, None], 0.0, x)

    x = jax.random.normal(jax.random.key(0), (4, 50))
    cond = {"label": jnp.zeros(4, int)}
    full = classifier_free(5.0, rescale=1.0)(denoise)(x, jnp.full(4, 0.5), cond)
    np.testing.assert_allclose(jnp.std(full, axis=1), jnp.std(x, axis=1), rtol=1e-5)


def test_autoguidance_extrapolates_away_from_the_weak_model():
    strong, weak = (lambda x, t, c: x), (lambda x, t, c: 0.5 * x)
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(autoguidance(weak, 3.0)(strong)(x, jnp.ones(2), None), 2.0)


def test_classifier_guidance_is_bayes_rule():
    """Mixture denoiser + gradient of the exact log p(class | x_t) = the class's own denoiser."""
    whole = mixture_denoiser(PROCESS, [0.5, 0.5], MEANS, [0.1, 0.1])
    one = mixture_log_prob(PROCESS, [1.0], MEANS[1:], [0.1])
    both = mixture_log_prob(PROCESS, [0.5, 0.5], MEANS, [0.1, 0.1])
    x, t = jnp.linspace(-2, 2, 9)[:, None], jnp.linspace(0.1, 0.9, 9)
    guided = classifier(lambda x, t, c: one(x, t) - both(x, t), PROCESS)(whole)(x, t, None)
    np.testing.assert_allclose(guided, gaussian_denoiser(PROCESS, 1.0, 0.1)(x, t, None), atol=1e-4)


def test_interval_calls_the_transform_inside_only():
    calls = []

    def transform(denoise):
        def guided(x, t, cond):
            jax.debug.callback(lambda: calls.append(1))
            return denoise(x, t, cond) + 1.0

        return guided

    limited = interval(transform, PROCESS, 0.5, 2.0)(lambda x, t, c: x)
    level = lambda value: PROCESS.time(-2.0 * jnp.log(jnp.asarray(value)))  # noqa: E731
    x = jnp.zeros((3, 1))
    np.testing.assert_allclose(limited(x, jnp.full(3, level(1.0)), None), 1.0)
    np.testing.assert_allclose(limited(x, jnp.full(3, level(5.0)), None), 0.0)
    jax.effects_barrier()
    assert len(calls) == 1
    mixed = limited(x, level(jnp.array([0.1, 1.0, 9.0])), None)
    np.testing.assert_allclose(mixed[:, 0], [0.0, 1.0, 0.0])


def test_thresholds():
    x = jnp.array([[0.0, 0.5, -4.0, 2.0], [0.1, -0.2, 0.3, 0.4]])
    identity = lambda x, t, c: x  # noqa: E731
    t = jnp.ones(2)
    np.testing.assert_allclose(static_threshold()(identity)(x, t, None)[0], [0.0, 0.5, -1.0, 1.0])
    dynamic = dynamic_threshold(0.9999)(identity)(x, t, None)
    np.testing.assert_allclose(dynamic[0], x[0] / 4.0, atol=1e-3)
    np.testing.assert_allclose(dynamic[1], x[1])  # already inside: unchanged
    both = compose(static_threshold(-2.0, 2.0), static_threshold(-0.5, 0.5))(identity)
    assert float(jnp.max(jnp.abs(both(x, t, None)))) == 0.5


def test_inpainting_conditions_on_the_known_half():
    """Correlated Gaussian: given x1 = 1.5, x2 has mean 1.2; replacement alone is biased, resampling helps."""
    process, cov = VE(0.01, 20.0), np.array([[1.0, 0.8], [0.8, 1.0]])
    denoise = gaussian_denoiser(process, np.zeros(2), cov)
    known = jnp.array([[1.5, 0.0]])
    keys = jax.random.split(jax.random.key(0), 2000)
    grid = grids.log_snr(process, 40, final="zero")

    def conditional_mean(n_resample):
        sampler = inpaint(ddpm(), known, jnp.array([[True, False]]), n_resample)
        out = jax.jit(lambda k: sample(k, denoise, process, sampler, grid, shape=(2,)))(keys)
        np.testing.assert_allclose(out.x[:, 0], 1.5, atol=1e-5)
        assert int(out.nfe) == 40 * n_resample
        return float(out.x[:, 1].mean())

    errors = [abs(conditional_mean(n) - 1.2) for n in (1, 4, 12)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_the_known_part_carries_each_levels_noise():
    """After one step to s it is N(alpha_s known, sigma_s^2)."""
    known = jnp.full((1, 1), 2.0)
    sampler = inpaint(heun(), known, jnp.ones((1, 1), bool))
    keys = jax.random.split(jax.random.key(1), 4000)
    denoise = gaussian_denoiser(PROCESS, 0.0, 1.0)
    x = sample(keys, denoise, PROCESS, sampler, jnp.array([0.8, 0.5]), shape=(1,)).x
    alpha, sigma, _ = marginal(PROCESS, 0.5)
    assert float(x.mean()) == pytest.approx(2.0 * float(alpha), abs=0.06)
    assert float(x.std()) == pytest.approx(float(sigma), rel=0.05)


# ---- denoisers made of networks


@pytest.mark.parametrize("process", [VP(), VE(), EDM(), RectifiedFlow()])
@pytest.mark.parametrize("output", ["x0", "eps", "score", "v", "velocity", "F"])
def test_bind_recovers_the_denoiser_from_any_output(process, output):
    truth = gaussian_denoiser(process, 0.3, 0.25)
    t = jnp.linspace(0.2, 0.7, 6) * process.t_max
    x = perturb(process, jnp.full((6, 2), 0.4), jnp.full((6, 2), -0.7), t)
    x0 = truth(x, t, None)
    if output == "F":
        c = precondition(process, t[:, None], 0.5)
        raw = (x0 - c.c_skip * x) / c.c_out
    else:
        raw = convert(process, x0, x, t, source="x0", target=output)
    bound = bind(lambda p, x, t, c: p, raw, process=process, output=output, sigma_data=0.5)
    np.testing.assert_allclose(bound(x, t, None), x0, atol=2e-4)


def test_preconditioning_has_unit_variance_everywhere():
    """Input and ideal network output have variance 1 for data of variance sigma_data^2, by Monte Carlo."""
    key = jax.random.key(0)
    x0 = 0.5 * jax.random.normal(key, (200_000,))
    eps = jax.random.normal(jax.random.fold_in(key, 1), (200_000,))
    for process in (VP(), EDM(), RectifiedFlow()):
        for u in (0.05, 0.4, 0.9):
            t = u * process.t_max
            alpha, sigma, _ = marginal(process, t)
            x = alpha * x0 + sigma * eps
            c = precondition(process, t, 0.5)
            assert float(jnp.std(c.c_in * x)) == pytest.approx(1.0, abs=0.02)
            assert float(jnp.std((x0 - c.c_skip * x) / c.c_out)) == pytest.approx(1.0, abs=0.02)
            # the least-squares property of c_skip: the target does not correlate with the input
            assert abs(float(jnp.mean((x0 - c.c_skip * x) / c.c_out * c.c_in * x))) < 0.02


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"output": "noise"}, "output"),
        ({"output": "F"}, "sigma_data"),
        ({"output": "x0", "time_input": "i"}, "time_input"),
    ],
)
def test_bind_names_bad_input(options, field):
    with pytest.raises(ValueError, match=field):
        bind(lambda p, x, t, c: x, None, process=PROCESS, **options)


# ---- losses


def exact_loss(process, weight, n=400_000, **options):
    """The loss of the best denoiser of N(0, 1) data, which is a one-dimensional integral."""
    x0 = jax.random.normal(jax.random.key(1), (n, 1))
    return denoising_loss(
        jax.random.key(0), gaussian_denoiser(process, 0.0, 1.0), process, x0, weighting=weight, **options
    )


def test_the_best_loss_is_its_integral():
    """For N(0, 1) under VP the posterior variance is sigma^2, so L_simple = int alpha^2 dt."""
    from scipy.integrate import quad

    value = float(exact_loss(PROCESS, weighting.simple("eps")).loss)
    expected = quad(lambda t: np.exp(-(0.1 * t + 9.95 * t * t)), 1e-3, 1)[0] / 0.999
    assert value == pytest.approx(expected, rel=0.01)
    x0_loss = float(exact_loss(PROCESS, weighting.simple("x0")).loss)
    expected = quad(lambda t: 1 - np.exp(-(0.1 * t + 9.95 * t * t)), 1e-3, 1)[0] / 0.999
    assert x0_loss == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("target", ["x0", "eps", "score", "v", "velocity"])
@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), EDM(t_max=5.0)])
def test_simple_weighting_is_the_targets_own_squared_error(process, target):
    t = jnp.linspace(0.1, 0.9, 16) * process.t_max
    x0, wrong = jax.random.normal(jax.random.key(2), (2, 16, 3))
    x = perturb(process, x0, jax.random.normal(jax.random.key(3), (16, 3)), t)

    def to(value):
        return convert(process, value, x, t, source="x0", target=target)

    squared = jnp.sum((to(wrong) - to(x0)) ** 2, axis=1)
    weighted = weighting.simple(target)(process, t) * jnp.sum((wrong - x0) ** 2, axis=1)
    np.testing.assert_allclose(weighted, squared, rtol=2e-3)


def test_edm_weighting_is_the_raw_networks_error():
    process, t = EDM(), jnp.array([0.01, 0.5, 20.0])
    c = precondition(process, t, 0.5)
    np.testing.assert_allclose(weighting.edm(0.5)(process, t), 1 / c.c_out**2, rtol=1e-4)


def test_weightings_at_their_limits():
    noisy, clean = jnp.asarray(0.999), jnp.asarray(0.02)
    snr = lambda t: jnp.exp(marginal(PROCESS, t).log_snr)  # noqa: E731
    assert float(weighting.min_snr(5.0)(PROCESS, clean)) == 5.0
    assert float(weighting.min_snr(5.0)(PROCESS, noisy)) == pytest.approx(float(snr(noisy)))
    # sigmoid: SNR where noisy (weight 1 on eps), a constant e^bias where clean
    assert float(weighting.sigmoid(1.0)(PROCESS, clean)) == pytest.approx(np.e, rel=0.05)
    assert float(weighting.sigmoid(1.0)(PROCESS, noisy)) == pytest.approx(float(snr(noisy)), rel=0.01)
    assert float(weighting.p2(0.0)(PROCESS, clean)) == pytest.approx(float(snr(clean)), rel=1e-5)
    assert float(weighting.p2(1.0)(PROCESS, clean)) == pytest.approx(1.0, rel=0.05)


def test_likelihood_weighting_against_the_published_ve_form():
    """VE: g^2 = d sigma^2 / dt, so the weighted error is (log ratio) |eps error|^2."""
    process, t = VE(0.01, 50.0), jnp.array([0.2, 0.6])
    sigma = 0.01 * 5000.0**t
    expected = np.log(5000.0) / sigma**2
    np.testing.assert_allclose(weighting.likelihood()(process, t), expected, rtol=1e-4)


def test_score_matching_by_hand():
    """The denoiser that returns x0_hat = x has score 0: the loss is d/2 times E eps^2."""
    process = VE(0.1, 10.0)
    levels = times.discrete(grids.log_snr(process, 9))
    x0 = jnp.zeros((50_000, 3))
    result = score_matching_loss(jax.random.key(0), lambda x, t, c: x, process, x0, times=levels)
    assert float(result.loss) == pytest.approx(1.5, rel=0.02)
    assert len(np.unique(np.asarray(result.t))) == 10


def test_labels_are_dropped_at_their_rate():
    cond = drop_labels(jax.random.key(0), {"label": jnp.arange(20_000)}, 0.1)
    assert float(cond["unconditional"].mean()) == pytest.approx(0.1, abs=0.01)
