"""temporary"""
import jax, jax.numpy as jnp
def sequence_log_prob(logits, tokens, mask):
    n = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1) - jnp.take_along_axis(logits.astype(jnp.float32), tokens[..., None], axis=-1)[..., 0]
    return -jnp.sum(n * mask, -1), jnp.sum(mask, -1)
def simpo_loss(c, r, lc, lr, *, beta, gamma):
    return -jax.nn.log_sigmoid(beta * c / lc - beta * r / lr - gamma)
def dpo_loss(c, r, rc, rr, *, beta):
    return -jax.nn.log_sigmoid(beta * ((c - rc) - (r - rr)))
