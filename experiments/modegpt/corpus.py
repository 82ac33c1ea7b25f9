"""Text to train and to measure on, as chunks of tokens, and the tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from diffax.checks import require
from diffax.data.corpus import standard_library_text
from diffax.data.text import join_documents, read_documents, token_chunks
from diffax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

_HELD_OUT = 10  # one of so many chunks, the last, where no text is named to measure on


class Corpus(NamedTuple):
    """Chunks of both splits; ``source`` says where the second is from."""

    tokenizer: Tokenizer
    train: Int[np.ndarray, "n t"]
    held_out: Int[np.ndarray, "m t"]
    source: str


def open_corpus(config: Mapping[str, Any], checkpoint: Path | None) -> Corpus:
    """What ``config.data`` names, in the checkpoint's tokens, or in those of a tokenizer trained on it."""
    files, held_out = tuple(config["files"]), tuple(config["held_out"])
    require(bool(files) or not held_out, "config.data.held_out", held_out, "() without config.data.files")
    train = read_documents(files) if files else standard_library_text("train")
    test = read_documents(held_out) if held_out else None if files else standard_library_text("test")
    tokenizer = load_tokenizer(checkpoint) if checkpoint else train_tokenizer(train, config["vocabulary"])
    length = config["context"]
    chunks = token_chunks(tokenizer.encode(join_documents(train)), length, name="config.data.files")
    if test is not None:
        other = token_chunks(tokenizer.encode(join_documents(test)), length, name="config.data.held_out")
        return Corpus(tokenizer, chunks, other, ", ".join(held_out) or "other packages' documentation")
    kept = max(1, len(chunks) // _HELD_OUT)
    require(len(chunks) > 1, "config.data.files: chunks", len(chunks), "2 or more")
    return Corpus(tokenizer, chunks[:-kept], chunks[-kept:], "the end of the text")
