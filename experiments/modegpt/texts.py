"""Calibration and held-out text as tokens: from files, or sampled by the model itself."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from diffax.checks import require
from diffax.data.text import join_documents, read_documents, token_chunks
from diffax.data.tokenizer import Tokenizer, load_tokenizer
from diffax.io.decoder_files import DecoderFiles
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import Choice, generate

SELF = "self"
_CONTEXT = 2048  # of published perplexities; shorter where the model's positions are
_HELD_OUT = 10  # one of so many chunks is not calibrated on


class Texts(NamedTuple):
    """Tokens to calibrate on and to measure on; ``source`` says where the latter are from."""

    calibration: Int[np.ndarray, "n t"]
    held_out: Int[np.ndarray, "m t"]
    source: str


def check_context(files: DecoderFiles, context: int) -> int:
    """The length of chunks: as asked, or, for 0, the usual one; ValueError beyond the model's positions."""
    longest = files.config.positions
    allowed = f"2 .. {longest}, the model's positions, or 0 for the usual"
    require(context == 0 or 2 <= context <= longest, "context", context, allowed)
    return context or min(_CONTEXT, longest)


def read_texts(
    files: DecoderFiles, calibration: Sequence[str], text: Sequence[str], context: int, count: int, seed: int
) -> Texts:
    """``count`` chunks to calibrate on, drawn, and those to measure on: files', or what calibration left.

    ``calibration`` is names of files, or "self". A text too short to leave anything is measured on itself,
    and ``source`` says so.
    """
    tokenizer = None if list(calibration) == [SELF] and not text else load_tokenizer(files.folder)
    known = _calibration(files, tokenizer, calibration, context, count, seed)
    if text:
        assert tokenizer is not None
        return Texts(known[:count], chunks_of(tokenizer, text, context), ", ".join(map(str, text)))
    kept = len(known) // _HELD_OUT
    if not kept:
        return Texts(known, known, "the calibration text itself")
    return Texts(known[: len(known) - kept][:count], known[len(known) - kept :], "held-out calibration text")


def _calibration(
    files: DecoderFiles,
    tokenizer: Tokenizer | None,
    names: Sequence[str],
    context: int,
    count: int,
    seed: int,
) -> Int[np.ndarray, "n t"]:
    """Chunks in a drawn order, more than ``count`` where there are."""
    if list(names) == [SELF]:
        return sample_texts(files, count + -(-count // _HELD_OUT), context, seed)
    assert tokenizer is not None
    found = chunks_of(tokenizer, names, context)
    order = np.random.default_rng(seed).permutation(len(found))
    return found[order[: count + -(-count // _HELD_OUT)]]


def chunks_of(tokenizer: Tokenizer, names: Sequence[str], context: int) -> Int[np.ndarray, "n t"]:
    """All whole chunks of files, whose documents are joined by empty lines."""
    ids = tokenizer.encode(join_documents(read_documents([Path(name) for name in names])))
    return token_chunks(ids, context, name=", ".join(map(str, names)))


def sample_texts(files: DecoderFiles, count: int, length: int, seed: int) -> Int[np.ndarray, "n t"]:
    """Texts that the model itself draws, from its first token on; ValueError where its files name none."""
    begin = files.fields.get("bos_token_id")
    require(isinstance(begin, int), f"{files.folder / 'config.json'}: bos_token_id", begin, "a token")
    params = jax.device_put(files.params())
    draw = jax.jit(
        partial(generate, DecoderLM(files.config), steps=length - 1, choice=Choice(temperature=1.0))
    )
    keys = jax.random.split(jax.random.key(seed), count)
    found, batch = [], 16
    for first in range(0, count, batch):
        some = keys[first : first + batch]
        prompt = jnp.full((len(some), 1), begin, jnp.int32)
        found.append(np.concatenate([prompt, draw(params, prompt, keys=some)], axis=1))
    return np.concatenate(found)
