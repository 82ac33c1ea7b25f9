"""Outputs of the networks of NVlabs/edm on random weights, stored in ``edm_unets.npz``.

    PYTHON_WITH_TORCH tests/oracle/peers/make_edm_unets.py PATH_OF/edm/training/networks.py

That file is not part of this project (another licence); weights and inputs are made as for diffusers.
"""

import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from make_diffusers_unets import random_array, random_weights

_SMALL = {"img_resolution": 8, "in_channels": 3, "num_blocks": 1}
CASES = {
    "ddpmpp": {
        **_SMALL,
        "model_type": "SongUNet",
        "out_channels": 3,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 2,
        "attn_resolutions": [4],
        "augment_dim": 9,
    },
    "adm": {
        **_SMALL,
        "model_type": "DhariwalUNet",
        "out_channels": 2,
        "model_channels": 32,
        "channel_mult": [1, 4],
        "attn_resolutions": [4],
        "label_dim": 5,
    },
}
C_NOISE = (-1.2, 0.9)


def inputs(name, config):
    """Two images (b, c, h, w), their log(sigma) / 4, and labels or None; the second has no label."""
    x = random_array(f"input of {name}", (2, config["in_channels"], 8, 8))
    labels = np.array([3, -1]) if config.get("label_dim") else None
    return x, np.array(C_NOISE, np.float32), labels


def load(path):
    """The peer's module, without its machinery for pickles."""
    package, persistence = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")
    persistence.persistent_class = lambda kind: kind
    package.persistence = persistence
    sys.modules.update({"torch_utils": package, "torch_utils.persistence": persistence})
    spec = importlib.util.spec_from_file_location("networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    """Run every case and write the file."""
    import torch

    source = Path(sys.argv[1])
    networks, arrays, shapes = load(source), {}, {}
    for name, config in CASES.items():
        options = {key: value for key, value in config.items() if key != "model_type"}
        model = getattr(networks, config["model_type"])(**options).eval()
        state = model.state_dict()
        shapes[name] = {k: list(v.shape) for k, v in state.items()}
        random = {k: v for k, v in shapes[name].items() if not k.endswith("resample_filter")}
        state.update({k: torch.from_numpy(v) for k, v in random_weights(random).items()})
        model.load_state_dict(state)
        x, noise, labels = inputs(name, config)
        hot = None
        if labels is not None:
            hot = torch.from_numpy(np.eye(config["label_dim"] + 1, dtype=np.float32)[labels][:, :-1])
        with torch.no_grad():
            arrays[name] = model(torch.from_numpy(x), torch.from_numpy(noise), hot).numpy()
        print(name, arrays[name].shape, f"std {arrays[name].std():.3f}")
    provenance = {
        "made_by": "tests/oracle/peers/make_edm_unets.py",
        "networks.py, sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "device": "cpu, float32",
    }
    meta = json.dumps({"provenance": provenance, "shapes": shapes})
    np.savez_compressed(Path(__file__).with_name("edm_unets.npz"), meta=np.array(meta), **arrays)


if __name__ == "__main__":
    main()
