"""Outputs of MONAI's DiffusionModelUNet and of its schedulers, stored in ``monai_unets.npz``.

    PYTHON_WITH_TORCH tests/oracle/peers/make_monai_unets.py FOLDER_OF_MONAI_1_4

The folder is what ``pip install --no-deps --target FOLDER monai==1.4.0`` makes: networks are the same there,
the cosine schedule is not. Weights and images follow from names, as in ``make_diffusers_unets``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from make_diffusers_unets import random_array, random_weights

_SMALL = {"in_channels": 1, "out_channels": 1, "channels": [8, 16], "norm_num_groups": 4}
# name: (arguments, size)
CASES = {
    "attention": (
        {
            **_SMALL,
            "spatial_dims": 2,
            "in_channels": 3,
            "out_channels": 2,
            "num_res_blocks": [2, 2],
            "attention_levels": [False, True],
            "num_head_channels": [5, 8],
            "norm_eps": 1e-2,
        },
        (8, 12),
    ),
    "blocks": (
        {
            **_SMALL,
            "spatial_dims": 3,
            "num_res_blocks": 1,
            "attention_levels": [False, False],
            "num_head_channels": 4,
            "resblock_updown": True,
            "use_combined_linear": True,
            "include_fc": False,
        },
        (6, 4, 8),
    ),
    "volume": (
        {
            **_SMALL,
            "spatial_dims": 3,
            "num_res_blocks": 1,
            "attention_levels": [False, True],
            "num_head_channels": 4,
            "num_class_embeds": 3,
        },
        (4, 8, 6),
    ),
}
TIMESTEPS = (7, 981)
SCHEDULES = {
    "linear_beta": {"num_train_timesteps": 1000},
    "scaled_linear_beta": {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0205},
    "sigmoid_beta": {"num_train_timesteps": 200, "beta_end": 0.05, "sig_range": 5},
    "cosine": {"num_train_timesteps": 300, "s": 0.01},
}
# name: arguments of a DDIMScheduler that takes every step from the last to the first
PATHS = {
    "epsilon": {
        "num_train_timesteps": 20,
        "schedule": "linear_beta",
        "beta_end": 0.2,
        "clip_sample": False,
    },
    "sample": {"num_train_timesteps": 10, "schedule": "cosine", "prediction_type": "sample"},
    "v_prediction": {
        "num_train_timesteps": 20,
        "schedule": "sigmoid_beta",
        "beta_end": 0.3,
        "prediction_type": "v_prediction",
        "clip_sample": False,
    },
}
FLOW = {"num_train_timesteps": 100}
FLOW_STEPS = 5


def inputs(name, config, size):
    """Two images (b, c, ...), their steps, and labels or None."""
    x = random_array(f"input of {name}", (2, config["in_channels"], *size))
    classes = config.get("num_class_embeds")
    return x, np.array(TIMESTEPS), None if classes is None else np.array([1, classes - 1])


def start():
    """Where the sampled paths begin."""
    return random_array("start", (2, 3, 4, 1))


def prediction(x, step, library):
    """A network of one line, of numpy's, torch's or jax's tanh."""
    return library.tanh(0.7 * x + 0.03 * step - 0.2)


def peer_output(config, x, steps, labels):
    """The peer's output and its state dict's shapes."""
    import torch
    from monai.networks.nets import DiffusionModelUNet

    model = DiffusionModelUNet(**config).eval()
    state = model.state_dict()
    shapes = {name: list(value.shape) for name, value in state.items()}
    model.load_state_dict({name: torch.from_numpy(w) for name, w in random_weights(shapes).items()})
    labels = None if labels is None else torch.from_numpy(labels)
    with torch.no_grad():
        return model(torch.from_numpy(x), torch.from_numpy(steps), class_labels=labels).numpy(), shapes


def paths():
    """Where DDIM (eta = 0) and the rectified flow arrive from :func:`start`."""
    import torch
    from monai.networks.schedulers import DDIMScheduler, RFlowScheduler

    ends = {}
    for name, options in PATHS.items():
        scheduler, x = DDIMScheduler(**options), torch.from_numpy(start())
        for step in range(options["num_train_timesteps"] - 1, -1, -1):
            x = scheduler.step(prediction(x, step, torch), step, x, eta=0.0)[0]
        ends[f"path of {name}"] = x.numpy()
    scheduler, x = RFlowScheduler(**FLOW), torch.from_numpy(start())
    scheduler.set_timesteps(FLOW_STEPS)
    for step in scheduler.timesteps.tolist():
        x = scheduler.step(prediction(x, step, torch), step, x)[0]
    return ends | {"path of flow": x.numpy()}


def tables():
    """The products of every schedule."""
    from monai.networks.schedulers import DDPMScheduler

    return {name: DDPMScheduler(schedule=name, **o).alphas_cumprod.numpy() for name, o in SCHEDULES.items()}


def every_network():
    """Outputs of all cases, and shapes of their weights."""
    outputs, shapes = {}, {}
    for name, case in CASES.items():
        outputs[name], shapes[name] = peer_output(case[0], *inputs(name, *case))
    return outputs, shapes


def old_version(folder):
    """The cosine schedule and the outputs of an older version, in a process of its own."""
    code = "import sys, numpy; sys.path.insert(0, sys.argv[1]); import make_monai_unets as m;"
    code += "numpy.savez(sys.argv[2], cosine=m.tables()['cosine'], **m.every_network()[0])"
    place = Path(folder) / "numbers.npz"
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-c", code, here, str(place)], check=True, env=environment)
    return dict(np.load(place))


def main():
    """Run every case and write the file."""
    import monai
    import torch

    outputs, shapes = every_network()
    old = old_version(sys.argv[1])
    gap = max(float(np.abs(old[name] - outputs[name]).max()) for name in CASES)
    print("largest difference of an output between the versions", gap)
    arrays = outputs | tables() | {"cosine of 1.4": old["cosine"]} | paths()
    for name, value in arrays.items():
        print(name, value.shape, value.dtype, f"std {value.std():.3f}")
    provenance = {
        "made_by": "tests/oracle/peers/make_monai_unets.py",
        "monai": monai.__version__,
        "monai of 'cosine of 1.4'": "1.4.0",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "device": "cpu, float32",
    }
    meta = json.dumps({"provenance": provenance, "shapes": shapes})
    np.savez_compressed(Path(__file__).with_name("monai_unets.npz"), meta=np.array(meta), **arrays)


if __name__ == "__main__":
    main()
