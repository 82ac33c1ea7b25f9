"""Whether full-size networks compute in both libraries what they compute in the other.

    python benchmarks/parity_diffusers.py --peer_python=PYTHON_WITH_TORCH [--full_size]

For the layouts of google/ddpm-cifar10-32 and google/ddpm-celebahq-256, with random weights: the peer saves
a model and its output, ours loads and runs it (import), ours saves it again and the peer loads and runs
that (export). Images have 64x64 pixels at most, which the networks do not depend on; ``--full_size`` takes
256x256 for the second. On accelerators set JAX_DEFAULT_MATMUL_PRECISION=highest.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "oracle" / "peers"))
from make_diffusers_unets import CELEBA, CIFAR10, inputs, random_weights

LAYOUTS = {"ddpm-cifar10-32": CIFAR10, "ddpm-celebahq-256": CELEBA}


def run_peer(name: str, folder: Path, size: int, make: bool) -> None:
    """In a Python with torch: make a model of random weights (or load the one in folder) and run it."""
    import torch
    from diffusers import UNet2DModel

    if make:
        model = UNet2DModel(**LAYOUTS[name])
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        arrays = random_weights(shapes)
        model.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
        model.save_pretrained(folder)
    model = UNet2DModel.from_pretrained(folder).eval()
    x, steps, _ = inputs(name, LAYOUTS[name], size, size)
    with torch.no_grad():
        output = model(torch.from_numpy(x[:1]), torch.from_numpy(steps[1:])).sample
    np.save(folder / "output.npy", output.numpy())


def run_ours(name: str, folder: Path, exported: Path, size: int) -> dict[str, object]:
    """Load the peer's folder, run it, save it as ours, and say whether the arrays are the same bits."""
    import jax

    from diffax.io import load_diffusers, read_tensors, save_diffusers

    model, params = load_diffusers(folder)
    config = LAYOUTS[name]
    save_diffusers(exported, model, params, sample_size=config["sample_size"], sine_first=True)
    weights = "diffusion_pytorch_model.safetensors"
    before, after = (read_tensors(place / weights)[0] for place in (folder, exported))
    exact = before.keys() == after.keys() and all(np.array_equal(before[k], after[k]) for k in before)
    old, new = (json.loads((place / "config.json").read_text()) for place in (folder, exported))
    exact = exact and all(value == old[key] for key, value in new.items())
    x, steps, _ = inputs(name, config, size, size)
    apply = jax.jit(model.apply)
    output = apply({"params": params}, x[:1].transpose(0, 2, 3, 1), steps[1:].astype(np.float32))
    np.save(exported / "ours.npy", np.asarray(output).transpose(0, 3, 1, 2))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"layout": name, "params": count, "image": f"{size}x{size}", "round trip exact": exact}


def compare(name: str, peer_python: str, size: int) -> dict[str, object]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as place:
        theirs, exported = Path(place) / "theirs", Path(place) / "exported"

        def peer(folder: Path, task: str) -> np.ndarray:
            command = [peer_python, __file__, f"--task={task}", f"--layout={name}", f"--folder={folder}"]
            subprocess.run([*command, f"--size={size}"], check=True, capture_output=True)
            return np.load(folder / "output.npy")

        first = peer(theirs, "make")
        row = run_ours(name, theirs, exported, size)
        second = peer(exported, "load")
        ours = np.load(exported / "ours.npy")
    row["output std"] = f"{first.std():.3f}"
    row["max abs difference, ours - torch"] = f"{np.abs(ours - first).max():.2e}"
    row["torch after export - torch before"] = f"{np.abs(second - first).max():.2e}"
    return row


def main() -> None:
    """Print the table, or be the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="a Python with torch and diffusers")
    parser.add_argument("--full_size", action="store_true")
    parser.add_argument("--task", choices=("table", "make", "load"), default="table")
    parser.add_argument("--layout", choices=LAYOUTS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    if options.task != "table":
        run_peer(options.layout, options.folder, options.size, options.task == "make")
        return
    from common import print_table

    most = 256 if options.full_size else 64
    rows = []
    for name, config in LAYOUTS.items():
        rows.append(compare(name, options.peer_python, min(config["sample_size"], most)))
    print_table(rows)


if __name__ == "__main__":
    main()
