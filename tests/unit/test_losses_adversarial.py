"""Adversarial losses against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.losses.adversarial import discriminator_loss, generator_loss, lazily, r1_penalty


def test_losses_at_known_logits():
    zero = jnp.zeros(4)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * np.log(2))
    assert float(generator_loss(zero)) == pytest.approx(np.log(2))
    # sure and right: no loss; sure and wrong: the logit itself, without overflow
    assert float(discriminator_loss(jnp.full(3, 200.0), jnp.full(3, -200.0))) == pytest.approx(0.0, abs=1e-6)
    assert float(generator_loss(jnp.full(3, -200.0))) == pytest.approx(200.0)


def test_the_generator_has_a_gradient_where_the_discriminator_is_sure():
    grad = jax.grad(lambda y: generator_loss(y))(jnp.full(2, -50.0))
    np.testing.assert_allclose(grad, -0.5, rtol=1e-6)


def test_the_best_discriminator_is_the_log_ratio():
    """At D = log(p / q) the derivative of the expected loss with respect to D vanishes, for any p and q."""
    p, q = jnp.array([0.2, 0.7, 0.1]), jnp.array([0.5, 0.1, 0.4])

    def expected(logits):
        return jnp.sum(p * jax.nn.softplus(-logits) + q * jax.nn.softplus(logits))

    np.testing.assert_allclose(jax.grad(expected)(jnp.log(p / q)), 0.0, atol=1e-6)
    drawn = jax.random.choice(jax.random.key(0), 3, (200_000,), p=p)
    other = jax.random.choice(jax.random.key(1), 3, (200_000,), p=q)
    found = discriminator_loss(jnp.log(p / q)[drawn], jnp.log(p / q)[other])
    assert float(found) == pytest.approx(float(expected(jnp.log(p / q))), abs=0.01)


class TestR1:
    def test_a_linear_discriminator(self):
        w = jnp.array([3.0, -4.0])
        assert float(r1_penalty(lambda x: x @ w + 7.0, jnp.ones((5, 2)))) == pytest.approx(25.0)

    def test_a_quadratic_discriminator_over_images(self):
        x = jax.random.normal(jax.random.key(0), (6, 3, 4, 2))
        found = r1_penalty(lambda x: 0.5 * jnp.sum(x**2, axis=(1, 2, 3)), x)
        assert float(found) == pytest.approx(float(jnp.mean(jnp.sum(x**2, axis=(1, 2, 3)))), rel=1e-5)

    def test_its_own_gradient(self):
        """d/dw of |w|^2 is 2 w: the penalty can be trained through."""
        grad = jax.grad(lambda w: r1_penalty(lambda x: x @ w, jnp.ones((5, 2))))(jnp.array([3.0, -4.0]))
        np.testing.assert_allclose(grad, [6.0, -8.0], rtol=1e-6)


@pytest.mark.parametrize(("rescale", "total"), [(True, 12.0), (False, 4.0)])
def test_lazy_penalties_keep_their_strength_when_rescaled(rescale, total):
    """Over 12 steps, due every third: the same sum as every step, or a third of it."""
    values = [lazily(lambda: jnp.ones(()), jnp.asarray(step), 3, rescale) for step in range(12)]
    assert sum(float(value) for value, _ in values) == total
    assert [bool(due) for _, due in values] == [True, False, False] * 4


def test_a_penalty_that_is_not_due_is_not_computed():
    calls = []

    def penalty():
        jax.debug.callback(lambda: calls.append(1))
        return jnp.ones(())

    for step in range(6):
        jax.block_until_ready(jax.jit(lambda s: lazily(penalty, s, 3, True))(jnp.asarray(step)))
    jax.effects_barrier()
    assert len(calls) == 2
    with pytest.raises(ValueError, match="every"):
        lazily(penalty, jnp.asarray(0), 0, True)
