"""Logits and greedy tokens of compact checkpoints run by transformers: ``compact_decoders.npz``.

    python tests/oracle/peers/make_compact_decoders.py write FOLDER          # with diffax
    PYTHON_WITH_TRANSFORMERS tests/oracle/peers/make_compact_decoders.py read FOLDER

The second needs torch and transformers alone, as a user of such a checkpoint does. Weights follow from names,
as in make_transformers_decoders.py. What is stored holds for one text of the modelling file, by its digest.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the line below, as a script
from oracle.peers.make_transformers_decoders import CASES as STOCK
from oracle.peers.make_transformers_decoders import random_weights, tokens

STORED = Path(__file__).with_name("compact_decoders.npz")
REMOTE = Path(__file__).parents[3] / "diffax" / "io" / "remote" / "modeling_compact.py"
_PAIRS = tuple(tuple((head + step) % 8 for step in (0, 5, 2, 3)) for head in range(4))
_ORDER = tuple(tuple(np.roll(range(8), head).tolist()) for head in range(4))
_MAPS = ("query", "key", "value", "out", "gate", "up", "down")
# the stock case, and of each layer hidden units, keys, values, pairs, ranks, stream
CASES = {
    "grouped": ("grouped", [(20, 4, 5, ((0, 2), (3, 1))), (44, 8, 8)]),
    "one_head_tied_linear": ("one_head_tied_linear", [(44, 6, 3, ((3, 0, 1),)), (7, 2, 8, ((2,),))]),
    "wide_heads_llama3": ("wide_heads_llama3", [(30, 8, 10, _PAIRS), (44, 16, 1, _ORDER)]),
    "products": (
        "grouped",
        [
            (44, 8, 8, (), tuple((name, 9 + n) for n, name in enumerate(_MAPS))),
            (30, 4, 5, ((0, 2), (3, 1)), (("down", 11), ("query", 6))),
        ],
    ),
    "stream": (
        "grouped",
        [(20, 4, 5, ((0, 2), (3, 1)), (), (24, 20, 28)), (44, 8, 8, (), (), (28, 16, 12))],
    ),
    "opt": ("opt", [(25, 3, 5), (40, 8, 8)]),
    "opt_products": ("opt", [(40, 8, 8, (), (("query", 5), ("out", 7), ("up", 9), ("down", 11))), (9, 7, 1)]),
}


def build(name, whole=False):
    """Configuration, parameters and the fields of the stock model's config.json; ``whole``: as that says."""
    from dataclasses import replace

    from flax import traverse_util

    from diffax.io import decoder_layout as layout
    from diffax.io.decoder_config import parse_config
    from diffax.models.decoder_lm import Layer

    fields = {**STOCK[CASES[name][0]], "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 60}
    config = parse_config(fields, name)
    layers = config.layers if whole else tuple(Layer(*widths) for widths in CASES[name][1])
    config = replace(config, layers=layers).check()

    def tree(stored):
        found = random_weights({one.name: one.shape for one in stored})
        leaves = {one.path: found[one.name].T if one.turned else found[one.name] for one in stored}
        return traverse_util.unflatten_dict(leaves)

    made = {f"layers_{number}": tree(layout.layer(config, number)) for number in range(len(layers))}
    return config, {**tree(layout.ends(config)), **made}, fields


def load(folder):
    """A checkpoint as its users load it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True).eval()


def say(model, name, **options):
    """The sixteen likeliest tokens after each prompt."""
    import torch

    text = torch.from_numpy(tokens(name))[:, :10]
    ones = torch.ones_like(text)
    with torch.no_grad():
        said = model.generate(text, attention_mask=ones, max_new_tokens=16, do_sample=False, **options)
    return said.numpy()[:, 10:]


def logits(model, name):
    """Of both texts."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens(name))).logits.float().numpy()


def digest():
    """Of the modelling file."""
    return hashlib.sha256(REMOTE.read_bytes()).hexdigest()


def write(folder):
    """Compact checkpoints of all cases."""
    from diffax.io.decoder_writer import write_decoder

    for name in CASES:
        write_decoder(folder / name, *build(name))


def read(folder):
    """What transformers makes of them."""
    import torch
    import transformers

    arrays = {}
    for name in CASES:
        model = load(folder / name)
        arrays[name], arrays[f"{name}/greedy"] = logits(model, name)[:, ::3], say(model, name)
        uncached = say(model, name, use_cache=False)
        assert np.array_equal(arrays[f"{name}/greedy"], uncached), f"{name}: a cache changes the text"
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    np.savez_compressed(STORED, meta=json.dumps({"versions": versions, "digest": digest()}), **arrays)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
