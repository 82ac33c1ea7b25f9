"""Outputs of diffusers' UNet2DModel on random weights, stored in ``diffusers_unets.npz``.

    PYTHON_WITH_TORCH tests/oracle/peers/make_diffusers_unets.py

Weights, images and labels follow from names through numpy's frozen legacy generator, so that a test without
torch makes them again. Norm scales and biases are not trivial and no layer is zero.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

CIFAR10 = {  # the layout of google/ddpm-cifar10-32, its own fields
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CELEBA = {  # the layout of google/ddpm-celebahq-256
    **CIFAR10,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
    "sample_size": 256,
}
_NARROW = {"norm_num_groups": 4, "sample_size": 16}
_TWO_LEVELS = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    **_NARROW,
}
# name: (configuration, height, width)
CASES = {
    "cifar10": ({**CIFAR10, **_NARROW, "block_out_channels": [16, 32, 32, 32]}, 16, 16),
    "celeba": ({**CELEBA, **_NARROW, "block_out_channels": [8, 8, 16, 16, 32, 32]}, 32, 32),
    "defaults": ({**_TWO_LEVELS}, 8, 8),
    "not_square": ({**_TWO_LEVELS, "downsample_padding": 0}, 8, 12),
    "heads": (
        {
            **_TWO_LEVELS,
            "attention_head_dim": 4,
            "down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D"],
        },
        8,
        8,
    ),
    "scale_shift": (
        {**_TWO_LEVELS, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
        8,
        8,
    ),
    "classes": ({**_TWO_LEVELS, "num_class_embeds": 5, "norm_eps": 1e-2}, 8, 8),
    "no_attention": (
        {
            **_TWO_LEVELS,
            "add_attention": False,
            "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "in_channels": 4,
            "out_channels": 2,
            "act_fn": "swish",
            "flip_sin_to_cos": False,
        },
        8,
        8,
    ),
}
TIMESTEPS = (7, 981)


def random_array(name, shape):
    """Numbers that depend on the name and the shape alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def random_weights(shapes):
    """Weights of a state dict: those of norms around 1, biases of 0.1, others keep a signal's size."""
    weights = {}
    for name, shape in shapes.items():
        x = random_array(name, shape)
        if name.endswith("bias"):
            weights[name] = 0.1 * x
        elif len(shape) == 1:
            weights[name] = 1 + 0.2 * x
        elif name.startswith("class_embedding"):
            weights[name] = x
        else:
            weights[name] = x / np.float32(np.sqrt(np.prod(shape[1:])))
    return weights


def inputs(name, config, height, width):
    """Two images (b, c, h, w), their steps, and labels or None."""
    x = random_array(f"input of {name}", (2, config.get("in_channels", 3), height, width))
    classes = config.get("num_class_embeds")
    return x, np.array(TIMESTEPS), None if classes is None else np.array([1, classes - 1])


def peer_output(config, x, steps, labels, weights=None):
    """The peer's output and its state dict's shapes."""
    import torch
    from diffusers import UNet2DModel

    model = UNet2DModel(**config).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    weights = random_weights(shapes) if weights is None else weights
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    labels = None if labels is None else torch.from_numpy(labels)
    with torch.no_grad():
        output = model(torch.from_numpy(x), torch.from_numpy(steps), labels).sample
    return output.numpy(), shapes


def main():
    """Run every case and write the file."""
    import diffusers
    import torch

    arrays, shapes = {}, {}
    for name, case in CASES.items():
        arrays[name], shapes[name] = peer_output(case[0], *inputs(name, *case))
        print(name, arrays[name].shape, f"std {arrays[name].std():.3f}")
    provenance = {
        "made_by": "tests/oracle/peers/make_diffusers_unets.py",
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "device": "cpu, float32",
    }
    meta = json.dumps({"provenance": provenance, "shapes": shapes})
    np.savez_compressed(Path(__file__).with_name("diffusers_unets.npz"), meta=np.array(meta), **arrays)


if __name__ == "__main__":
    main()
