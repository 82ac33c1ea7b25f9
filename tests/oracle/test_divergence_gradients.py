"""The weighted difference of scores is the gradient of the divergence: Gaussians, by quadrature and by draws.

p = N(0, 1), q = N(m, s^2), x = m + s e. Divergences and gradients were computed independently of this library
(closed forms of the KL family and Hellinger's, finite differences of quadratures for the rest).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm

from diffax.losses.adversarial import discriminator_loss
from diffax.losses.distribution_matching import density_ratio, matching_loss
from diffax.losses.divergences import divergence

NAMES = ("rkl", "sf", "js", "sh", "kl", "jf")
VALUES = {
    (1.0, 1.0): (0.5, 0.277157, 0.222843, 0.117503, 0.5, 1.0),
    (1.0, 0.8): (0.543144, 0.264153, 0.278991, 0.151924, 0.839356, 1.382500),
}
GRADIENTS = {
    (1.0, 1.0): (
        (1, 0), (0.602027, 0.198986), (0.397973, -0.198986), (0.220624, -0.110312), (1, -1), (2, -1),
    ),
    (1.0, 0.8): (
        (1, -0.45), (0.547963, -0.078272), (0.452037, -0.371728), (0.258560, -0.242479), (1.5625, -2.65625),
        (2.5625, -3.10625),
    ),
    (2.0, 0.7): (
        (2, -0.728571), (1.531448, -0.157743), (0.468552, -0.570828), (0.332515, -0.433561),
        (4.081633, -13.148688), (6.081633, -13.877259),
    ),
    (-0.5, 0.6): (
        (-0.5, -1.066667), (-0.219286, -0.439451), (-0.280714, -0.627216), (-0.164916, -0.388200),
        (-1.388889, -4.120370), (-1.888889, -5.187037),
    ),
}  # fmt: skip
DEVIATIONS = {  # of one draw of the estimator at (1, 1)
    "rkl": (0, 1.0), "sf": (0.20, 0.62), "js": (0.20, 0.49), "sh": (0.12, 0.34), "kl": (1.31, 3.55),
    "jf": (1.31, 4.20),
}  # fmt: skip
SPREADS = {  # Var h / (E h)^2 for unit Gaussians at a distance d; the forward KL's is exp(d^2) - 1
    0.5: {"rkl": 0, "sf": 0.0495, "js": 0.0626, "sh": 0.0645, "kl": 0.2840, "jf": 0.0710},
    1.0: {"rkl": 0, "sf": 0.1120, "js": 0.2564, "sh": 0.2840, "kl": 1.7183, "jf": 0.4296},
    2.0: {"rkl": 0, "sf": 0.1029, "js": 1.2242, "sh": 1.7183, "kl": 53.60, "jf": 13.40},
}
NODES = np.linspace(-30.0, 30.0, 60_001)


def log_ratio(x, m, s):
    return norm.logpdf(x) - norm.logpdf(x, m, s)


def gradient(name, m, s, e, share):
    """``d loss / d(m, s)`` of the library's loss at x = m + s e, each draw counting ``share`` (sum 1).

    At sigma = 1 and alpha = 1 an estimate of x0 is ``x + score``: matching_loss takes its estimates so.
    """

    def loss(params):
        x = (params[0] + params[1] * e)[:, None]
        ratio = density_ratio(log_ratio(x, m, s), bound=690.0, low=1e-300, high=1e300)
        weight = divergence(name).h(ratio) * share * len(e)
        return matching_loss(x, x - x, x - (x - m) / s**2, weight)

    return jax.grad(loss)(jnp.asarray([m, s]))


@pytest.mark.parametrize("name", NAMES)
class TestOfGaussians:
    @pytest.mark.parametrize("point", GRADIENTS)
    def test_by_quadrature(self, name, point, float64):
        share = norm.pdf(jnp.asarray(NODES)) * (NODES[1] - NODES[0])
        found = gradient(name, *point, jnp.asarray(NODES), share)
        np.testing.assert_allclose(found, GRADIENTS[point][NAMES.index(name)], atol=1e-4)

    @pytest.mark.parametrize("point", VALUES)
    def test_values_of_the_divergence(self, name, point, float64):
        m, s = point
        x = m + s * jnp.asarray(NODES)
        density = norm.pdf(jnp.asarray(NODES)) * (NODES[1] - NODES[0])
        terms = density * divergence(name).f(jnp.exp(jnp.clip(log_ratio(x, m, s), -300, 300)))
        assert float(jnp.sum(terms)) == pytest.approx(VALUES[point][NAMES.index(name)], abs=1e-6)

    def test_by_draws(self, name, float64):
        """A million draws, within 5 standard errors."""
        n = 1_000_000
        e = jax.random.normal(jax.random.key(0), (n,), jnp.float64)
        found = gradient(name, 1.0, 1.0, e, jnp.full(n, 1 / n))
        error = np.abs(np.asarray(found) - GRADIENTS[1.0, 1.0][NAMES.index(name)])
        assert (error <= 5 * np.asarray(DEVIATIONS[name]) / np.sqrt(n) + 1e-6).all()

    @pytest.mark.parametrize("distance", SPREADS)
    def test_spread_of_the_weights(self, name, distance, float64):
        """What the paper plots as the variance of its gradients: covering modes costs variance."""
        x = jnp.asarray(NODES)
        density = norm.pdf(x) * (NODES[1] - NODES[0])
        h = divergence(name).h(jnp.exp(log_ratio(distance + x, distance, 1.0)))
        mean = jnp.sum(density * h)
        spread = jnp.sum(density * h**2) / mean**2 - 1
        assert float(spread) == pytest.approx(SPREADS[distance][name], rel=2e-3, abs=1e-6)


def test_divergences_add_up(float64):
    """Jensen-Shannon's and the softened one to the reverse KL; the two KLs to Jeffreys'."""
    r = jnp.geomspace(1e-3, 1e3, 101)
    js, sf, rkl, kl, jf = (divergence(name) for name in ("js", "sf", "rkl", "kl", "jf"))
    np.testing.assert_allclose(js.h(r) + sf.h(r), rkl.h(r), rtol=1e-12)
    np.testing.assert_allclose(kl.h(r) + rkl.h(r), jf.h(r), rtol=1e-12)
    np.testing.assert_allclose(js.f(r) + sf.f(r), rkl.f(r), atol=1e-9)
    np.testing.assert_allclose(kl.f(r) + rkl.f(r), jf.f(r), rtol=1e-12)


def test_the_sign_of_the_ratio():
    """A discriminator trained by the library's loss on real N(0, 1) and drawn N(1, 1) finds log(p / q).

    Its best logit is 1/2 - x; the ratio that goes into h is then p / q, above 1 on the left.
    """
    real, drawn = (jax.random.normal(jax.random.key(i), (100_000,)) + i for i in (0, 1))

    def loss(params):
        return discriminator_loss(params[0] + params[1] * real, params[0] + params[1] * drawn)

    optimizer = optax.lbfgs()
    step = optax.value_and_grad_from_state(loss)

    @jax.jit
    def fit(params):
        def body(carry, _):
            params, state = carry
            value, grad = step(params, state=state)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, optimizer.init(params)), None, 15)[0][0]

    found = fit(jnp.zeros(2))
    np.testing.assert_allclose(found, [0.5, -1.0], atol=0.02)
    x = jnp.asarray([-1.0, 0.0, 0.5, 1.0, 2.0])
    expected = norm.pdf(x) / norm.pdf(x, 1.0)
    np.testing.assert_allclose(density_ratio(found[0] + found[1] * x), expected, rtol=0.05)
