"""What the cache of chosen experts saves: operations by XLA and by formula, CPU time, memory.

    python benchmarks/experts.py                # three layouts, batches of 1 and 64; one thread
    python benchmarks/experts.py --full_size    # operations of the published layout, by shapes alone
    python benchmarks/experts.py --training     # a training step's gradient instead: samples sorted by expert

One call is the whole network; times are of ten-step samples through one compiled scan, the smallest CPU time
of ``--repeats`` alternating runs. "All experts" is the network as it is, "dense" one with a single expert as
wide as all together. Formula: per token and layer 2 (4 d^2 + k 3 m d^2), attention's products 4 n^2 d, and
the maps of inputs and outputs.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from diffax import bind, sample
from diffax.models import ActionTransformer, apply_cached, build_cache, cache_bytes
from diffax.models.expert_cache import ExpertCache
from diffax.models.layers.experts import Expert
from diffax.processes import EDM, grids
from diffax.samplers import ddim

ACTIONS, NUMBERS, GOAL, SEEN = 10, 4, 10, 39  # a chunk, an action, a goal, an observation
LAYOUTS = ((4, 2), (8, 2), (16, 1))
PROCESS = EDM(t_min=0.001, t_max=80.0)


def inputs(batch: int) -> tuple[Any, Any, dict[str, Any]]:
    """Zeros of a state-based policy's shapes."""
    cond = {"goal": jnp.zeros((batch, GOAL)), "observation": jnp.zeros((batch, 1, 1, SEEN))}
    return jnp.zeros((batch, ACTIONS, NUMBERS)), jnp.zeros(batch), cond


def formula(width: int, depth: int, top_k: int, ratio: float) -> float:
    """Floating-point operations of one call for one sample, additions and multiplications apart."""
    tokens = ACTIONS + 3
    layer = 2 * tokens * (4 * width**2 + top_k * 3 * ratio * width**2) + 4 * tokens**2 * width
    ends = 2 * width * (1 + width + GOAL + SEEN + 2 * ACTIONS * NUMBERS)
    return depth * layer + ends


def operations(call: Callable[..., Any], *arguments: Any) -> float:
    """As XLA counts them, without compiling."""
    return float(jax.jit(call).lower(*arguments).cost_analysis()["flops"])


def count(width: int, depth: int, experts: int, top_k: int) -> dict[str, float]:
    """Operations of one call for one sample: all experts, the chosen ones, one as wide as all."""
    x, t, cond = inputs(1)
    sparse = ActionTransformer(width, depth, 8, experts, top_k)
    wide = ActionTransformer(width, depth, 8, 1, 1, mlp_ratio=4.0 * experts)
    shapes = {m: jax.eval_shape(m.init, jax.random.key(0), x, t, cond)["params"] for m in (sparse, wide)}
    found = {
        name: operations(lambda p, m=m: m.apply({"params": p}, x, t, cond), shapes[m])
        for name, m in (("all experts", sparse), ("dense", wide))
    }
    # the cache as what runs: k experts of a layer, without the choice among branches, whose cost XLA sums up
    chosen = ActionTransformer(width, depth, 8, top_k, top_k)
    params = jax.eval_shape(chosen.init, jax.random.key(0), x, t, cond)["params"]
    found["cached"] = operations(lambda c: apply_cached(chosen)(c, x, t, cond), cache_shapes(chosen, params))
    return found | {"formula": formula(width, depth, top_k, 4.0)}


def cache_shapes(model: ActionTransformer, params: Any) -> Any:
    """A cache of one level by shapes alone."""

    def make(params: Any) -> ExpertCache:
        names = [f"blocks_{i}" for i in range(model.depth)]
        banks = [params[n]["bank"] for n in names]
        experts = tuple(
            tuple(Expert(b["into"][e], b["bias"][e], b["back"][e]) for e in range(model.experts))
            for b in banks
        )
        rest = {k: v for k, v in params.items() if k not in names}
        rest |= {n: {k: v for k, v in params[n].items() if k not in ("bank", "routing")} for n in names}
        numbers = jnp.zeros((model.depth, 1, model.top_k))
        return ExpertCache(jnp.zeros(1), numbers.astype(int), numbers, experts, rest, "shapes")

    return jax.eval_shape(make, params)


def samplers(width: int, depth: int, experts: int, top_k: int, batch: int) -> dict[str, Callable[[], Any]]:
    """Ten-step samples of the three networks, compiled."""
    _, _, cond = inputs(batch)
    keys = jax.random.split(jax.random.key(1), batch)
    grid = grids.log_snr(PROCESS, 10, final="zero")
    sparse = ActionTransformer(width, depth, 8, experts, top_k)
    wide = ActionTransformer(width, depth, 8, 1, 1, mlp_ratio=4.0 * experts)
    weights = {m: jax.jit(m.init)(jax.random.key(0), *inputs(1))["params"] for m in (sparse, wide)}
    cache = build_cache(sparse, weights[sparse], jnp.log(grid[:-1]) / 4)

    def compiled(apply_fn: Any, params: Any) -> Callable[[], Any]:
        def draw(params: Any) -> Any:
            options = {"output": "F", "sigma_data": 0.5, "time_input": "c_noise"}
            denoise = bind(apply_fn, params, process=PROCESS, **options)
            return sample(keys, denoise, PROCESS, ddim(), grid, shape=(ACTIONS, NUMBERS), cond=cond).x

        program = jax.jit(draw).lower(params).compile()
        return lambda: program(params).block_until_ready()

    def plain(m: Any) -> Any:
        return lambda p, x, t, c: m.apply({"params": p}, x, t, c)

    runs = {n: compiled(plain(m), weights[m]) for n, m in (("all experts", sparse), ("dense", wide))}
    runs["cached"] = compiled(apply_cached(sparse), cache)
    banks = sum(
        leaf.nbytes for i in range(depth) for leaf in jax.tree.leaves(weights[sparse][f"blocks_{i}"]["bank"])
    )
    print(f"  memory of the cache: {cache_bytes(cache) / banks:.4f} of the experts'")
    print(f"  largest difference: {np.abs(runs['cached']() - runs['all experts']()).max():.1e}")
    return runs


def gradients(experts: int, top_k: int, batch: int) -> dict[str, Callable[[], Any]]:
    """A step's gradients, compiled: of the mixture, and of dense networks as wide as what runs or as all."""
    x, time_, cond = inputs(batch)
    made = {
        "mixture": ActionTransformer(256, 4, 8, experts, top_k),
        "dense, as active": ActionTransformer(256, 4, 8, 1, 1, mlp_ratio=4.0 * top_k),
        "dense, as all": ActionTransformer(256, 4, 8, 1, 1, mlp_ratio=4.0 * experts),
    }

    def compiled(model: Any) -> Callable[[], Any]:
        params = jax.jit(model.init)(jax.random.key(0), *inputs(1))["params"]

        def loss(params: Any, key: Any) -> Any:
            rngs, given = {"dropout": key}, (x + 1, time_, cond)
            out, kept = model.apply({"params": params}, *given, True, rngs=rngs, mutable=["losses"])
            return jnp.mean(out**2) + sum(jax.tree.leaves(kept), jnp.zeros(()))

        program = jax.jit(jax.grad(loss)).lower(params, jax.random.key(1)).compile()
        return lambda: jax.block_until_ready(program(params, jax.random.key(1)))

    return {name: compiled(model) for name, model in made.items()}


def smallest(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time, of alternating runs."""
    found = dict.fromkeys(runs, np.inf)
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            found[name] = min(found[name], 1e3 * (time.process_time() - begun))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full_size", action="store_true", help="count the published layout too")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--training", action="store_true", help="gradients in place of samples")
    asked = parser.parse_args()
    if asked.training:
        report_training(asked.repeats)
    for experts, top_k in () if asked.training else LAYOUTS:
        report(256, 4, experts, top_k)
        for batch in (1, 64):
            ms = smallest(samplers(256, 4, experts, top_k, batch), asked.repeats)
            ratios = {k: ms["cached"] / ms[k] for k in ("all experts", "dense")}
            print(f"  batch {batch}, cached / " + ", ".join(f"{k} {v:.3f}" for k, v in ratios.items()))
            print("    CPU ms: " + ", ".join(f"{k} {v:.0f}" for k, v in ms.items()))
    if asked.full_size:
        report(1024, 12, 4, 2)


def report_training(repeats: int) -> None:
    """Gradients, a line for each layout and batch."""
    for experts, top_k in LAYOUTS:
        for batch in (64, 512):
            ms = smallest(gradients(experts, top_k, batch), repeats)
            print(f"{experts} experts, top {top_k}, batch {batch}, CPU ms of a gradient:")
            print("  " + ", ".join(f"{name} {value:.0f}" for name, value in ms.items()))


def report(width: int, depth: int, experts: int, top_k: int) -> None:
    """One layout's operations."""
    found = count(width, depth, experts, top_k)
    print(f"width {width}, depth {depth}, {experts} experts, top {top_k}")
    print("  million operations a call: " + ", ".join(f"{k} {v / 1e6:.1f}" for k, v in found.items()))
    ratios = {k: found["cached"] / found[k] for k in ("formula", "all experts", "dense")}
    print("  cached / " + ", ".join(f"{k} {v:.3f}" for k, v in ratios.items()))


if __name__ == "__main__":
    main()
