"""Logits and greedy tokens of compact checkpoints in transformers, by the file that stands beside them:
``compact_decoders.npz``.

    PYTHONPATH=tests PYTHON_WITH_TRANSFORMERS tests/oracle/peers/make_compact_decoders.py

Needs nothing of this library but that file. Weights, rotary pairs and tokens follow from names.
"""

import json
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from oracle.peers.make_transformers_decoders import CASES as STOCK
from oracle.peers.make_transformers_decoders import LLAMA, LLAMA3, random_weights, tokens

PADDING = 5
REMOTE = Path(__file__).parents[3] / "diffax" / "io" / "remote" / "modeling_compact.py"


def layer(hidden, keys=8, values=8, ranks=None, stream=()):
    return {"hidden": hidden, "keys": keys, "values": values, "ranks": ranks or {}, "stream": list(stream)}


def compact(config, *layers):
    """Its config.json, as diffax.io.decoder_writer writes it."""
    kind = {"llama": "Llama", "opt": "OPT"}[config["model_type"]]
    places = {"AutoConfig": "Config", "AutoModelForCausalLM": "ForCausalLM"}
    return {
        **config,
        "model_type": f"compact_{config['model_type']}",
        "architectures": [f"Compact{kind}ForCausalLM"],
        "auto_map": {auto: f"{REMOTE.stem}.Compact{kind}{rest}" for auto, rest in places.items()},
        "layers": list(layers),
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 60,
    }


CASES = {
    "grouped_pairs": compact(LLAMA, layer(30, 6, 5), layer(21, 2, 7)),
    "one_head_llama3": compact(
        {**LLAMA, "num_key_value_heads": 1, "rope_parameters": LLAMA3, "tie_word_embeddings": True},
        layer(44, 4, 3),
        layer(40, 8, 1),
    ),
    "products": compact(
        LLAMA,
        layer(44, 8, 8, {"query": 9, "key": 5, "value": 4, "out": 11, "gate": 12, "up": 13, "down": 14}),
        layer(20, 6, 8, {"query": 3, "down": 2}),
    ),
    "narrow_stream": compact(LLAMA, layer(44, stream=(20, 24, 28)), layer(33, 4, 6, stream=(28, 22, 26))),
    "opt": compact(
        STOCK["opt"], layer(17, 5, 3), layer(40, 8, 6, {"query": 7, "out": 4, "up": 5, "down": 6})
    ),
}


def weights_of(name, shapes):
    """Random tensors, and rotary pairs in increasing order that differ between heads."""
    found, pairs = random_weights(shapes), CASES[name].get("head_dim", 0) // 2
    for one, shape in shapes.items():
        if one.endswith("rotary_pairs"):
            random = np.random.RandomState(zlib.crc32(one.encode()))
            rows = [np.sort(random.permutation(pairs)[: shape[1]]) for _ in range(shape[0])]
            found[one] = np.array(rows, np.int32)
    return found


def padded(torch, text):
    """Tokens with as many on the left that are none, and what says so."""
    none = torch.ones(len(text), PADDING, dtype=text.dtype)
    return torch.cat([none, text], dim=1), torch.cat([0 * none, torch.ones_like(text)], dim=1)


def main():
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    import torch
    import transformers
    from safetensors.numpy import save_file

    arrays, shapes = {}, {}
    for name, config in CASES.items():
        at = folder / name
        at.mkdir()
        (at / "config.json").write_text(json.dumps(config))
        shutil.copyfile(REMOTE, at / REMOTE.name)
        given = transformers.AutoConfig.from_pretrained(at, trust_remote_code=True)
        empty = transformers.AutoModelForCausalLM.from_config(given, trust_remote_code=True)
        state = {k: tuple(v.shape) for k, v in empty.state_dict().items()}
        if config["tie_word_embeddings"]:
            del state["lm_head.weight"]
        shapes[name] = state
        save_file(weights_of(name, state), at / "model.safetensors", {"format": "pt"})
        model, about = transformers.AutoModelForCausalLM.from_pretrained(
            at, trust_remote_code=True, output_loading_info=True, dtype=torch.float32
        )
        assert not any(about[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), about
        text = torch.from_numpy(tokens(name))
        with torch.no_grad():
            arrays[name] = model.eval()(text).logits.numpy()[:, ::3]
            arrays[f"{name}/padded"] = model(*padded(torch, text)).logits.numpy()[:, PADDING::3]
            for kind, cached in (("greedy", True), ("greedy_uncached", False)):
                said = model.generate(
                    text[:, :10],
                    max_new_tokens=16,
                    do_sample=False,
                    use_cache=cached,
                    attention_mask=torch.ones(2, 10),
                )
                arrays[f"{name}/{kind}"] = said.numpy()[:, 10:]
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "modeling_compact.py": f"crc32 {zlib.crc32(REMOTE.read_bytes()):08x}",
    }
    meta = json.dumps({"shapes": shapes, "versions": about})
    np.savez_compressed(Path(__file__).with_name("compact_decoders.npz"), meta=meta, **arrays)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
