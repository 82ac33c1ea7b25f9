"""Experts chosen once for all steps of a sampler, in place of routers and banks at every call.

Where routing depends on the noise level alone, the experts that each layer runs on a time grid are known
before sampling. The cache holds them apart, every expert once, so that a step reads those it runs where they
lie: no router, no gated-out work, no copy of weights. It is a whole network for its grid, other parameters
included: experts of one network never meet the rest of another. Whether it is still that of given parameters
says :func:`check_cache`.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from diffax.checks import is_concrete, require
from diffax.models.layers.experts import Expert
from diffax.models.moe import ActionTransformer, Picked
from diffax.types import ApplyFn, Cond, Params


@struct.dataclass
class ExpertCache:
    """A network for the times of one grid; a pytree, made by :func:`build_cache`.

    * ``times``: the network's times, ``log(sigma) / 4`` of each level; ``chosen``, ``gates``: of each layer
      (l), level (s) and place (k); ``experts``: those of each layer; ``params``: all others.
    * ``fingerprint``: of network, parameters and times.
    """

    times: Float[Array, "s"]
    chosen: Int[Array, "l s k"]
    gates: Float[Array, "l s k"]
    experts: tuple[tuple[Expert, ...], ...]
    params: Params
    fingerprint: str = struct.field(pytree_node=False)


def build_cache(model: ActionTransformer, params: Params, times: Float[Array, "s"]) -> ExpertCache:
    """Choose the experts of every layer at each of the times, and set all experts apart.

    ``times`` are the network's, such as ``log(sigma) / 4`` of a grid's points but the last, where a sampler
    does not call the network.
    Raises ValueError for times that are not finite or not different, or a network whose routing depends on
    more than the noise level.
    """
    times = jnp.asarray(times, jnp.float32)
    known = times.ndim == 1 and times.size > 0 and bool(jnp.isfinite(times).all())
    require(known, "times", np.asarray(times), "a vector of one or more finite numbers")
    require(
        len(set(np.asarray(times).tolist())) == times.size, "times", np.asarray(times), "different numbers"
    )
    routings: Any = model.apply({"params": params}, times, method="route")
    chosen = jnp.stack([r.chosen for r in routings])
    gates = jnp.stack([r.gates for r in routings])
    names = [f"blocks_{i}" for i in range(model.depth)]
    experts = tuple(_split(params[name]["bank"]) for name in names)
    rest = {k: v for k, v in params.items() if k not in names}
    rest |= {n: {k: v for k, v in params[n].items() if k not in ("bank", "routing")} for n in names}
    return ExpertCache(times, chosen, gates, experts, rest, fingerprint(model, params, times))


def apply_cached(model: ActionTransformer) -> ApplyFn:
    """The network as ``f(cache, x, time, cond)``, for :func:`diffax.bind` with the cache as parameters.

    All samples of a call must stand at one level of the cache: others raise ValueError, or where times are
    traced make every output NaN.
    """

    def apply_fn(cache: ExpertCache, x: Array, time: Array, cond: Cond | None = None) -> Array:
        level = jnp.argmin(jnp.abs(cache.times - time[0]))
        slack = 1e-5 * jnp.maximum(1.0, jnp.abs(cache.times[level]))
        known = jnp.all(jnp.abs(time - cache.times[level]) <= slack)
        if is_concrete(known):
            allowed = f"one of the cache's {cache.times.size} levels, for all samples"
            require(bool(known), "time", np.asarray(time)[:4], allowed)
        layers = zip(cache.experts, cache.chosen[:, level], cache.gates[:, level], strict=True)
        picked = [Picked(*layer) for layer in layers]
        out: Any = model.apply({"params": cache.params}, x, time, cond, picked=picked)
        return jnp.where(known, out, jnp.nan)

    return apply_fn


def check_cache(
    cache: ExpertCache, model: ActionTransformer, params: Params, times: Float[Array, "s"]
) -> None:
    """Raise ``ValueError`` unless the cache was built of this network, these parameters and times."""
    now = fingerprint(model, params, jnp.asarray(times, jnp.float32))
    allowed = f"{now}, that of this network, its parameters and times: build the cache again"
    require(cache.fingerprint == now, "cache.fingerprint", cache.fingerprint, allowed)


def fingerprint(model: ActionTransformer, params: Params, times: Float[Array, "s"]) -> str:
    """A digest of the network's options, of every parameter's name, type and bytes, and of the times."""
    digest = hashlib.sha256(repr(model).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, times)):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def cache_bytes(cache: ExpertCache) -> int:
    """Memory of the chosen experts' store: experts, gates, numbers and times, without other parameters."""
    return sum(
        leaf.nbytes for leaf in jax.tree.leaves((cache.experts, cache.chosen, cache.gates, cache.times))
    )


def _split(bank: dict[str, Any]) -> tuple[Expert, ...]:
    """Every expert of a layer, in arrays of its own."""
    return tuple(
        Expert(*(bank[k][n] for k in ("into", "bias", "back"))) for n in range(bank["into"].shape[0])
    )
