"""A training run against the number of devices: step time, waiting for input, memory, arithmetic.

    python benchmarks/scaling.py --size=digits --devices=1,2,4,8              # virtual devices of a CPU
    python benchmarks/scaling.py --size=cifar-full --dtype=bfloat16 --peer_python=PYTHON_WITH_TORCH

The whole loop runs: pipeline, reading ahead, the guarded step, adaptive moments and one average. Rows are
meshes data x fsdp x tensor. On virtual devices the columns to read are the loss (the same everywhere) and the
bytes a device holds; they share the cores, so the time says nothing of a pod. On accelerators the columns are
images a second and the share of peak FLOP/s, and the last row is the same U-Net in PyTorch with
``torch.compile``.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import SIZES, arguments, peer, print_table
from ours import make_unet

from diffax.data import ArraySource, horizontal_flip, pipeline
from diffax.models import TENSOR_RULES
from diffax.training import TrainState, bytes_per_device, ema, init_net, make_mesh, make_train_step, train


def meshes(devices: list[int]) -> list[tuple[int, int, int]]:
    """Data-parallel, fully sharded, and mixed."""
    plain = [(d, 1, 1) for d in devices]
    sharded = [(1, d, 1) for d in devices if d > 1]
    mixed = [(d // 4, 2, 2) for d in devices if d >= 4]
    return plain + sharded + mixed


def run(spec: Mapping[str, Any], dtype: str, sizes: tuple[int, int, int], steps: int) -> dict[str, Any]:
    """One row: a run of ``steps`` steps on one mesh, the first half for warming up."""
    model, _, _ = make_unet({**spec, "batch": 1}, dtype)
    optimizer, averages = optax.adam(1e-4), {"slow": ema.constant(0.999)}
    rng = np.random.default_rng(0)
    shape = (2048, spec["size"], spec["size"], spec["image_channels"])
    source = ArraySource(rng.integers(0, 256, shape).astype(np.uint8))

    def loss_fn(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict]:
        eps = jax.random.normal(key, batch["image"].shape)
        t = jax.random.uniform(key, batch["image"].shape[:1])
        x = batch["image"] + eps
        return jnp.mean((model.apply({"params": params}, x, t) - eps) ** 2), {}

    def init() -> TrainState:
        x = jnp.zeros((1, *shape[1:]))
        params = model.init(jax.random.key(1), x, jnp.zeros(1))["params"]
        return TrainState.create(jax.random.key(2), {"model": init_net(params, optimizer, averages)})

    figures, losses = [], []
    with pipeline(source, spec["batch"], seed=0, augment=horizontal_flip()) as data:
        state = train(
            init, make_train_step(loss_fn, optimizer, averages), data, num_steps=steps, log_every=steps // 2,
            mesh=make_mesh(*sizes), rules=TENSOR_RULES,
            hooks=[lambda step, metrics, state: losses.append(metrics["loss"])],
            watches=[lambda step, found: figures.append(found)],
        )  # fmt: skip
    last = figures[-1]
    return {
        "mesh": "x".join(map(str, sizes)),
        "loss": losses[-1],
        "ms/step": 1e3 * last["seconds_per_step"],
        "images/s": last["samples_per_second"],
        "input wait": f"{last['input_wait_share']:.1%}",
        "state MB/device": max(bytes_per_device(state).values()) / 1e6,
        "peak MB/device": last["memory_peak_bytes"] / 1e6 if "memory_peak_bytes" in last else "",
        "GFLOP/s": last.get("flops_per_second", 0.0) / 1e9,
        "of peak": f"{last['utilisation']:.1%}" if "utilisation" in last else "",
    }


def options() -> argparse.Namespace:
    """Those of every benchmark, and the numbers of devices."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--devices", default="", help="numbers of devices, as 1,2,4,8; default: 1 and all")
    extra.add_argument("--steps", type=int, default=20)
    return arguments(__doc__ or "", extra)


def main() -> None:
    """Every mesh, then the peer."""
    chosen = options()
    counts = [int(d) for d in chosen.devices.split(",") if d]
    if counts:
        jax.config.update("jax_num_cpu_devices", max(counts))
    counts = counts or sorted({1, jax.device_count()})
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache)))
        rows = [run(SIZES[chosen.size], chosen.dtype, sizes, chosen.steps) for sizes in meshes(counts)]
    theirs = peer("training_compiled", chosen) if jax.default_backend() != "cpu" else None
    if theirs:
        rate = SIZES[chosen.size]["batch"] / theirs["seconds"]
        rows.append({"mesh": "PyTorch, torch.compile", "ms/step": 1e3 * theirs["seconds"], "images/s": rate})
        for row in rows:
            row["images/s / peer's"] = row["images/s"] / rate
    kind = jax.devices()[0].device_kind
    print(f"size {chosen.size}, {chosen.dtype}, {kind}, jax {jax.__version__}, {chosen.steps} steps")
    print_table(rows)


if __name__ == "__main__":
    main()
