"""Tokens a second: reading a prompt at once, and writing one token after another."""

from functools import partial

import jax
import jax.numpy as jnp

from diffax.io.decoder_files import DecoderFiles
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import generate
from experiments.figures import fastest

_PROMPT, _WRITTEN = 128, 128


def speed(files: DecoderFiles, batch: int) -> dict[str, float]:
    """Of the fastest of a few runs, on random tokens; texts are as long as the model's positions allow."""
    model, params = DecoderLM(files.config), jax.device_put(files.params())
    length = min(_PROMPT, files.config.positions // 2)
    steps = min(_WRITTEN, files.config.positions - length)
    tokens = jax.random.randint(jax.random.key(0), (batch, length), 0, files.config.vocabulary)
    read = jax.jit(model.apply)
    write = jax.jit(partial(generate, model, steps=steps))
    both = {
        "prefill": (batch * length, lambda: read({"params": params}, tokens)),
        "decode": (batch * steps, lambda: write(params, tokens[:, :1])),
    }
    found = {}
    for name, (count, call) in both.items():
        jnp.asarray(jax.block_until_ready(call()))  # compiled now
        found[f"{name}_tokens_per_second"] = count / fastest(call)
    return found
