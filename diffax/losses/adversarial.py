r"""Adversarial losses: a network that tells drawn samples from real ones, and the gradient penalty it needs.

With logits D and ``softplus(y) = log(1 + e^y)``:

    discriminator   E softplus(-D(real)) + E softplus(D(drawn)) + (gamma / 2) E |grad_x D(real)|^2
    generator       E softplus(-D(drawn))                                     (non-saturating)

Sources: Goodfellow et al. 2014 (arXiv:1406.2661), section 3; Mescheder et al. 2018 (arXiv:1801.04406), eq. 9.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffax import checks

Discriminate = Callable[[Array], Array]  # x: Float["b ..."] -> logits Float["b"]


def discriminator_loss(real: Float[Array, "b"], drawn: Float[Array, "b"]) -> Float[Array, ""]:
    """``mean softplus(-real) + mean softplus(drawn)`` of logits: 2 log 2 where both are undecided."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(drawn))


def generator_loss(drawn: Float[Array, "b"]) -> Float[Array, ""]:
    """``mean softplus(-drawn)`` of logits, which still has a gradient where the discriminator is sure."""
    return jnp.mean(jax.nn.softplus(-drawn))


def r1_penalty(discriminate: Discriminate, x: Float[Array, "b ..."]) -> Float[Array, ""]:
    """``mean_b |d D(x_b) / d x_b|^2``, to be weighted by gamma / 2.

    The gradient is that of the sum over the batch: for a discriminator whose logits do not depend on each
    other (no statistics over the batch) it is each sample's own.
    """
    gradient = jax.grad(lambda x: jnp.sum(discriminate(x)))(x)
    return jnp.mean(jnp.sum(jnp.square(gradient).reshape(x.shape[0], -1), axis=1))


def lazily(
    penalty: Callable[[], Float[Array, ""]], step: Int[Array, ""], every: int, rescale: bool
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """A penalty that is computed at steps 0, every, 2 every, ... only, and whether it was.

    With ``rescale`` it is multiplied by ``every``, which keeps its strength on average (Karras et al. 2020,
    arXiv:1912.04958, section 3.1); without, the strength is that of a gamma ``every`` times smaller.
    """
    checks.require(every >= 1, "every", every, "an integer >= 1")
    due = step % every == 0
    if every == 1:  # no branch: on a CPU, XLA's convolutions are thirty times slower inside of one
        return penalty(), due
    value = jax.lax.cond(due, penalty, lambda: jnp.zeros(()))
    return (every * value if rescale else value), due
