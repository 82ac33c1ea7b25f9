"""Losses of pairs of sequences, of which one is preferred; all from sequences' log-probabilities.

Let ``w`` and ``l`` be the preferred and the other answer to a prompt, ``log pi`` the sum of the tokens'
log-probabilities of an answer under the model that is trained, and ``log ref`` under a fixed one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffax.checks import require


def sequence_log_prob(
    logits: Float[Array, "b t v"], tokens: Int[Array, "b t"], mask: Bool[Array, "b t"]
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """``sum_t mask_t log softmax(logits_t)[tokens_t]`` in nats, float32, and how many tokens count.

    ``logits[:, t]`` predict ``tokens[:, t]``: shift them before.
    """
    scores = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask, chosen, 0.0), axis=-1), jnp.sum(mask, axis=-1, dtype=jnp.float32)


def dpo_loss(
    chosen: Float[Array, "b"],
    rejected: Float[Array, "b"],
    reference_chosen: Float[Array, "b"],
    reference_rejected: Float[Array, "b"],
    *,
    beta: float,
) -> Float[Array, "b"]:
    """``-log sigmoid(beta ((log pi(w) - log ref(w)) - (log pi(l) - log ref(l))))``, of each pair.

    Rafailov et al. 2023 (arXiv:2305.18290), equation 7. Raises ``ValueError`` unless ``beta > 0``.
    """
    require(beta > 0, "beta", beta, "a number > 0")
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -jax.nn.log_sigmoid(beta * margin)


def simpo_loss(
    chosen: Float[Array, "b"],
    rejected: Float[Array, "b"],
    chosen_length: Float[Array, "b"],
    rejected_length: Float[Array, "b"],
    *,
    beta: float,
    gamma: float,
) -> Float[Array, "b"]:
    """``-log sigmoid(beta log pi(w) / |w| - beta log pi(l) / |l| - gamma)``, of each pair; no reference.

    Lengths are in tokens, 1 or more. Meng et al. 2024 (arXiv:2405.14734), equation 6. Raises ``ValueError``
    unless ``beta > 0`` and ``gamma >= 0``.
    """
    require(beta > 0, "beta", beta, "a number > 0")
    require(gamma >= 0, "gamma", gamma, "a number >= 0")
    margin = beta * (chosen / chosen_length - rejected / rejected_length)
    return -jax.nn.log_sigmoid(margin - gamma)
