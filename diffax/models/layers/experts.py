r"""A mixture of experts: few of many perceptrons run, a router says which and with what weights.

    p = softmax(router(e))                                    # over the experts
    g_n = p_n / (sum of p over the k chosen), 0 for the others
    y   = sum_n g_n W'_n (u_n * silu(v_n)),   (u_n, v_n) = W_n x + b_n

A routing belongs to a sample, or to each of its tokens. At inference the k likeliest experts are chosen; in
training k different ones are drawn from ``p`` without replacement, which the largest k of ``log p`` plus
Gumbel noise are. Sources: Shazeer et al. 2017; Kool et al. 2019 (Gumbel top-k); Shazeer 2020 (gated units).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from diffax.checks import require

_STACKED = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", batch_axis=0)


class Routing(NamedTuple):
    """``probs``: over all experts; ``chosen``: k of them, different ones; ``gates``: theirs, of sum 1."""

    probs: Float[Array, "*b e"]
    chosen: Int[Array, "*b k"]
    gates: Float[Array, "*b k"]


class Expert(NamedTuple):
    """One expert's weights: of both branches, their bias, and of the way back."""

    into: Float[Array, "d h2"]
    bias: Float[Array, "h2"]
    back: Float[Array, "h d"]


def choose(logits: Float[Array, "*b e"], top_k: int, key: Key[Array, ""] | None = None) -> Routing:
    """The k likeliest experts, or with a key k experts drawn without replacement; in float32."""
    probs = jax.nn.softmax(logits.astype(jnp.float32))
    scores = jax.nn.log_softmax(logits.astype(jnp.float32))
    if key is not None:
        scores += jax.random.gumbel(key, scores.shape)
    chosen = jax.lax.top_k(scores, top_k)[1]
    kept = jnp.take_along_axis(probs, chosen, axis=-1)
    return Routing(probs, chosen, kept / kept.sum(axis=-1, keepdims=True))


def all_gates(routing: Routing) -> Float[Array, "*b e"]:
    """A gate for every expert, 0 for those that were not chosen."""
    one_hot = jax.nn.one_hot(routing.chosen, routing.probs.shape[-1])
    return jnp.sum(one_hot * routing.gates[..., None], axis=-2)


def load_balance(routing: Routing) -> Float[Array, ""]:
    """``E sum_n f_n P_n``: shares of the routings that chose n, times the mean probability of n.

    k where experts are used evenly, up to E where the same few always are. Fedus et al. 2021, eq. 4-6.
    """
    experts, axes = routing.probs.shape[-1], tuple(range(routing.probs.ndim - 1))
    used = jax.nn.one_hot(routing.chosen, experts).sum(axis=-2)
    return experts * jnp.sum(used.mean(axis=axes) * routing.probs.mean(axis=axes))


def run_expert(expert: Expert, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """``W' (u * silu(v))`` with ``(u, v) = W x + b``."""
    u, v = jnp.split(x @ expert.into.astype(x.dtype) + expert.bias.astype(x.dtype), 2, axis=-1)
    return (u * nn.silu(v)) @ expert.back.astype(x.dtype)


class Router(nn.Module):
    """Logits of the experts: a perceptron with one hidden layer of twice the width, nearly even at first."""

    experts: int

    @nn.compact
    def __call__(self, embedding: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        """Logits in float32, whatever the computation's dtype."""
        init = nn.initializers.normal(0.02)
        wide = nn.Dense(2 * embedding.shape[-1], kernel_init=init, name="hidden")
        return nn.Dense(self.experts, kernel_init=init, name="logits")(
            nn.gelu(wide(embedding.astype(jnp.float32)), approximate=False)
        )


class ExpertBank(nn.Module):
    """All experts of a layer, weights stacked along a first axis, which a mesh may split.

    With a routing of each sample and ``grouped=True``, samples are sorted by expert into groups of ``group``
    (the last of an expert filled up with zeros), so that the work is that of the chosen experts, not of all.
    Otherwise all experts run as one wide product whose hidden units are gated: no sample is ever dropped.
    """

    experts: int
    hidden: int
    dropout: float = 0.0
    group: int = 8
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], routing: Routing, train: bool = False, grouped: bool = False
    ) -> Float[Array, "b n d"]:
        """The gated sum of the chosen experts, for each token."""
        width = x.shape[-1]
        into = self.param("into", _STACKED, (self.experts, width, 2 * self.hidden))
        bias = self.param("bias", nn.initializers.zeros, (self.experts, 2 * self.hidden))
        back = self.param("back", _STACKED, (self.experts, self.hidden, width))
        weights = tuple(w.astype(self.dtype or x.dtype) for w in (into, bias, back))
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if grouped and routing.chosen.ndim == 2 and self._saves(*routing.chosen.shape):
            return self._grouped(weights, x, routing, drop)
        gates = all_gates(routing).astype(x.dtype)
        gates = gates[:, None] if gates.ndim == 2 else gates
        u, v = jnp.split(jnp.einsum("bnd,edh->bneh", x, weights[0]) + weights[1], 2, axis=-1)
        return jnp.einsum("bneh,ehd->bnd", drop(u * nn.silu(v) * gates[..., None]), weights[2])

    @nn.nowrap
    def _saves(self, samples: int, top_k: int) -> bool:
        """Whether groups hold fewer samples than all experts would."""
        return self._groups(samples * top_k) * self.group < samples * self.experts

    @nn.nowrap
    def _groups(self, pairs: int) -> int:
        """The most groups that so many pairs of sample and expert can fill."""
        return pairs // self.group + min(self.experts, pairs)

    @nn.nowrap
    def _grouped(self, weights: tuple[Array, ...], x: Array, routing: Routing, drop: Any) -> Array:
        into, bias, back = weights
        pairs = routing.chosen.size
        slot, expert_of = group_by_expert(
            routing.chosen.reshape(-1), self.experts, self.group, self._groups(pairs)
        )
        sample = jnp.arange(pairs) // routing.chosen.shape[1]
        rows = jnp.full(expert_of.size * self.group, x.shape[0]).at[slot].set(sample)
        padded = jnp.concatenate([x, jnp.zeros_like(x[:1])])  # the row of zeros that fills groups up
        groups = padded[rows].reshape(expert_of.size, -1, x.shape[-1])
        u, v = jnp.split(jnp.matmul(groups, into[expert_of]) + bias[expert_of][:, None], 2, axis=-1)
        found = jnp.matmul(drop(u * nn.silu(v)), back[expert_of]).reshape(-1, *x.shape[1:])
        mixed = found[slot].reshape(*routing.chosen.shape, *x.shape[1:])
        return jnp.einsum("bk,bknd->bnd", routing.gates.astype(x.dtype), mixed)


def group_by_expert(
    chosen: Int[Array, "p"], experts: int, group: int, groups: int
) -> tuple[Int[Array, "p"], Int[Array, "g"]]:
    """A place for each pair in groups of one expert each, and the expert of each group.

    ``groups`` must be at least ``p // group + min(experts, p)``; groups that stay empty count as the last
    expert's.
    """
    counts = jnp.zeros(experts, jnp.int32).at[chosen].add(1)
    needed = -(-counts // group)
    ends = jnp.cumsum(needed)
    order = jnp.argsort(chosen, stable=True)
    rank = jnp.zeros_like(chosen).at[order].set(jnp.arange(chosen.size, dtype=chosen.dtype))
    rank -= (jnp.cumsum(counts) - counts)[chosen]  # among those of the same expert
    slot = (ends - needed)[chosen] * group + rank
    expert_of = jnp.searchsorted(ends, jnp.arange(groups), side="right")
    return slot, jnp.minimum(expert_of, experts - 1)


def check_experts(experts: int, top_k: int) -> None:
    """Raise ``ValueError`` unless ``1 <= top_k <= experts``."""
    require(experts >= 1, "experts", experts, "an integer >= 1")
    require(1 <= top_k <= experts, "top_k", top_k, f"1 to {experts}, the number of experts")
