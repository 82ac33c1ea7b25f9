"""What compressing a decoder costs: memory by layers, a layer of a large model, linear algebra.

    python benchmarks/structured_compression.py --streaming  # peak memory with 4 and with 32 layers
    python benchmarks/structured_compression.py --layer      # one layer of Llama-2-7B's shapes
    python benchmarks/structured_compression.py --algebra    # values and outputs, h x h against d x d

Weights are random. Each compression is a process of its own, whose peak is that of its resident memory, the
compiler and JAX (about 0.4 GB) included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from diffax.io.decoder_config import stock_fields
from diffax.io.decoder_writer import end_tensors, layer_tensors, write_about
from diffax.io.weights import write_tensors
from diffax.linalg import value_output
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers

SMALL = {"width": 512, "heads": 8, "kv_heads": 8, "hidden": 1408, "vocabulary": 512}
LLAMA_7B = {"width": 4096, "heads": 32, "kv_heads": 32, "hidden": 11008, "vocabulary": 512}


def write_checkpoint(folder: Path, layers: int, sizes: dict[str, int]) -> None:
    """Random weights, a file a layer."""
    hidden, head_size = sizes["hidden"], sizes["width"] // sizes["heads"]
    names = ("vocabulary", "width", "heads", "kv_heads")
    common = {name: sizes[name] for name in names} | {"head_size": head_size, "positions": 2048}
    config = DecoderConfig(layers=uniform_layers(layers, hidden, head_size), **common)
    one = DecoderConfig(layers=uniform_layers(1, hidden, head_size), **common)
    draw = jax.jit(lambda key: DecoderLM(one).init(key, np.zeros((1, 2), np.int32))["params"])
    folder.mkdir()
    for number in range(layers):
        params = jax.tree.map(np.asarray, draw(jax.random.key(number)))
        write_tensors(
            folder / _shard(number, layers),
            layer_tensors(config, number, params["layers_0"], "padded", config),
        )
    write_tensors(
        folder / f"model-{layers + 1:05}-of-{layers + 1:05}.safetensors", end_tensors(config, params)
    )
    write_about(folder, config, {**stock_fields(config, hidden), "bos_token_id": 0}, "padded")


def _shard(number: int, layers: int) -> str:
    return f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"


def compress(model: Path, tokens: int, allocation: str) -> dict[str, float]:
    """In a process of its own."""
    code = (
        "import resource, sys, time, numpy as np\n"
        "from pathlib import Path\n"
        "from diffax.io.decoder_files import DecoderFiles\n"
        "from experiments.modegpt.compression import Settings\n"
        "from experiments.modegpt.runner import Runner\n"
        "from experiments.modegpt.streaming import Work, compress_files\n"
        "model, tokens, allocation = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
        "texts = np.random.default_rng(0).integers(0, 512, (tokens // 256, 256)).astype(np.int32)\n"
        "begun = time.monotonic()\n"
        "work = Work(model.parent / f'{model.name}.work', 'benchmark')\n"
        "runner = Runner(DecoderFiles(model), batch=4)\n"
        "compress_files(runner, texts, Settings(ratio=0.3, allocation=allocation), work, 'compact')\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(time.monotonic() - begun, peak)\n"
    )
    call = [sys.executable, "-c", code, str(model), str(tokens), allocation]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return {"seconds": seconds, "peak_gb": peak / 1e9}


def streaming(folder: Path) -> None:
    """Peak memory by the number of layers."""
    for allocation in ("influence", "sensitivity"):
        found = {}
        for layers in (4, 32):
            model = folder / f"{allocation}-{layers}"
            write_checkpoint(model, layers, SMALL)
            tokens = 4096 if allocation == "influence" else 1024
            found[layers] = compress(model, tokens, allocation)
            print(f"{allocation}, {layers} layers: {json.dumps(found[layers])}", flush=True)
        print(f"  peak with 32 / with 4: {found[32]['peak_gb'] / found[4]['peak_gb']:.3f}", flush=True)


def layer(folder: Path) -> None:
    """One layer of a large model."""
    write_checkpoint(folder / "large", 1, LLAMA_7B)
    print(f"one layer, f = 11,008, 4,096 tokens: {json.dumps(compress(folder / 'large', 4096, 'uniform'))}")


def algebra() -> None:
    """Values and outputs of 16 heads of 64 numbers, width 1,024: the best of three by CPU time."""
    draw, (width, heads, size) = np.random.default_rng(0), (1024, 16, 64)
    x = draw.normal(size=(4096, width)) @ draw.normal(size=(width, width)) / 32
    c = x.T @ x / len(x)
    maps = [(draw.normal(size=(width, size)) / 32, draw.normal(size=(size, width)) / 8) for _ in range(heads)]

    def by_heads() -> list[np.ndarray]:
        found = [value_output(v.T @ c @ v, v, o, size // 2) for v, o in maps]
        return [v @ o for v, o in found]

    def by_width() -> list[np.ndarray]:
        values, vectors = np.linalg.eigh(c)
        root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
        found = []
        for v, o in maps:
            left, sizes, right = np.linalg.svd(root @ v @ o, full_matrices=False)
            rank = size // 2
            found.append(inverse @ left[:, :rank] @ (sizes[:rank, None] * right[:rank]))
        return found

    times = {}
    for name, call in {"h x h": by_heads, "d x d": by_width}.items():
        times[name] = min(cpu_seconds(call) for _ in range(3))
    apart = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(by_heads(), by_width(), strict=True))
    ratio = times["h x h"] / times["d x d"]
    print(f"CPU seconds {json.dumps(times)}, ratio {ratio:.4f}, largest relative difference {apart:.1e}")


def cpu_seconds(call: object) -> float:
    """Of one call."""
    begun = time.process_time()
    call()  # type: ignore[operator]
    return time.process_time() - begun


def main() -> None:
    """What the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("streaming", "layer", "algebra"):
        parser.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if asked.algebra:
            algebra()
        if asked.streaming:
            streaming(Path(scratch))
        if asked.layer:
            layer(Path(scratch))


if __name__ == "__main__":
    main()
