"""Logits and greedy tokens of transformers' Llama and OPT on random weights: ``transformers_decoders.npz``.

    PYTHON_WITH_TRANSFORMERS tests/oracle/peers/make_transformers_decoders.py

Weights and tokens follow from names through numpy's frozen legacy generator, so that a test without torch
makes them again. Norm scales and biases are not trivial.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "grouped": LLAMA,
    "one_head_tied_linear": {
        **LLAMA,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
    "wide_heads_llama3": {
        **LLAMA,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "rope_parameters": LLAMA3,
    },
    "opt": {
        "model_type": "opt",
        "vocab_size": 61,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "do_layer_norm_before": True,
        "activation_function": "relu",
        "tie_word_embeddings": True,
    },
}


def random_weights(shapes):
    """Arrays by name, from the name alone."""
    found = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = random.normal(size=shape) * (0.3 if len(shape) == 2 else 0.2)
        norm = name.endswith("norm.weight")
        found[name] = (values + norm).astype(np.float32)
    return found


def tokens(name):
    """Two texts of forty tokens."""
    return np.random.RandomState(zlib.crc32(name.encode())).randint(3, 61, (2, 40))


def main():
    import torch
    import transformers

    arrays, shapes = {}, {}
    for name, config in CASES.items():
        kind = {"llama": "Llama", "opt": "OPT"}[config["model_type"]]
        given = getattr(transformers, f"{kind}Config")(
            **{k: v for k, v in config.items() if k != "model_type"},
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=60,
        )
        model = getattr(transformers, f"{kind}ForCausalLM")(given).eval()
        state = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        if config["tie_word_embeddings"]:
            state = {k: v for k, v in state.items() if k != "lm_head.weight"}
        shapes[name] = state
        weights = {k: torch.from_numpy(v) for k, v in random_weights(state).items()}
        missing = model.load_state_dict(weights, strict=False)
        assert set(missing.missing_keys) <= {"lm_head.weight"}, missing
        assert not missing.unexpected_keys, missing
        text = torch.from_numpy(tokens(name))
        with torch.no_grad():
            arrays[name] = model(text).logits.numpy()[:, ::3]
            said = model.generate(
                text[:, :10], max_new_tokens=16, do_sample=False, attention_mask=torch.ones(2, 10)
            )
        arrays[f"{name}/greedy"] = said.numpy()[:, 10:]
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    meta = json.dumps({"shapes": shapes, "versions": about})
    np.savez_compressed(Path(__file__).with_name("transformers_decoders.npz"), meta=meta, **arrays)


if __name__ == "__main__":
    main()
