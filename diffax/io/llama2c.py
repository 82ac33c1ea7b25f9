"""Llama models in the one-file format of llama2.c, version 0, and the tokenizers beside them.

    config, params = read_llama2c("stories260K.bin")
    tokenizer = read_llama2c_tokenizer("tok512.bin", config.vocabulary)
    logits = DecoderLM(config).apply({"params": params}, jnp.array([tokenizer.encode("Once upon a time")]))

Format: https://github.com/karpathy/llama2.c, ``legacy_export`` of export.py, ``run.c`` and tokenizer.py.
"""

import heapq
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffax.checks import require
from diffax.models.decoder_lm import DecoderConfig, uniform_layers
from diffax.types import Params

_HEADER = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
_LATER = 0x616B3432  # what files of versions 1 and 2 begin with
_BEGIN, _END, _BYTES, _PIECES = 1, 2, 3, 259  # tokens: 0 is unknown, 3 to 258 are bytes


def read_llama2c(path: str | Path) -> tuple[DecoderConfig, Params]:
    """Configuration and parameters, float32, on the host.

    The tables of the rotations in the file are passed over, as ``run.c`` does: frequencies are those of theta
    10000. Raises ValueError for files that are missing, of another length than their header says or of later
    versions, for sizes that do not fit each other, and for numbers that are not finite.
    """
    path = Path(path)
    require(path.is_file(), "path", str(path), "a model file of llama2.c")
    length = path.stat().st_size
    require(length >= 4 * len(_HEADER), f"{path}: length", length, "a header of 28 bytes or more")
    config = _config(np.fromfile(path, "<i4", len(_HEADER)).tolist(), str(path))
    shapes = _shapes(config)
    expected = 4 * (len(_HEADER) + sum(math.prod(shape) for shape in shapes.values()))
    require(length == expected, f"{path}: length", length, f"{expected} bytes, by its header")
    numbers = np.memmap(path, "<f4", "r", offset=4 * len(_HEADER))
    arrays, used = {}, 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        arrays[name] = np.asarray(numbers[used : used + count]).reshape(shape)
        used += count
        finite = bool(np.isfinite(arrays[name]).all())
        require(finite, f"{path}: {name}", "NaN or infinity", "finite numbers")
    return config, _params(config, arrays)


def _config(header: Sequence[int], path: str) -> DecoderConfig:
    require(header[0] != _LATER, f"{path}: version", header[1], "0, which has no magic number")
    given = dict(zip(_HEADER, header, strict=True))
    for name, value in given.items():
        fits = value != 0 if name == "vocab_size" else value >= 1
        require(fits, f"{path}: {name}", value, "an integer >= 1 (vocab_size: or <= -1, head not tied)")
    width, heads, vocabulary = given["dim"], given["n_heads"], given["vocab_size"]
    require(width % (2 * heads) == 0, f"{path}: dim", width, f"a multiple of 2 * {heads} heads")
    kv_heads = given["n_kv_heads"]
    require(heads % kv_heads == 0, f"{path}: n_kv_heads", kv_heads, f"a divisor of {heads} heads")
    return DecoderConfig(
        vocabulary=abs(vocabulary),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_size=width // heads,
        layers=uniform_layers(given["n_layers"], given["hidden_dim"], width // heads),
        positions=given["seq_len"],
        tied=vocabulary > 0,
    )


def _shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Arrays in the order of the file; matrices have their outputs first."""
    count, layer = len(config.layers), config.layers[0]
    maps = {name: (count, out, into) for name, (into, out) in config.maps(layer).items()}
    norm, table = (count, config.width), (config.positions, config.head_size // 2)
    attention = {name: maps[name] for name in ("query", "key", "value", "out")}
    return {
        "embed": (config.vocabulary, config.width),
        "norm_attention": norm,
        **attention,
        "norm_mlp": norm,
        **{name: maps[name] for name in ("gate", "down", "up")},
        "norm": (config.width,),
        "cos": table,
        "sin": table,
        **({} if config.tied else {"head": (config.vocabulary, config.width)}),
    }


def _params(config: DecoderConfig, arrays: dict[str, np.ndarray]) -> Params:
    found: dict[str, Any] = {"embed": arrays["embed"], "norm": {"scale": arrays["norm"]}}
    if not config.tied:
        found["head"] = arrays["head"].T
    for number, layer in enumerate(config.layers):
        maps = {name: arrays[name][number] for name in config.maps(layer)}
        for name, heads in (("query", config.heads), ("key", config.kv_heads)):
            maps[name] = _halves(maps[name], heads)
        found[f"layers_{number}"] = {
            **{name: {"kernel": value.T} for name, value in maps.items()},
            **{name: {"scale": arrays[name][number]} for name in ("norm_attention", "norm_mlp")},
        }
    return found


def _halves(rows: Float[np.ndarray, "n d"], heads: int) -> Float[np.ndarray, "n d"]:
    """Rotary pairs (2i, 2i + 1) of each head as (i, i + r/2)."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


# -- tokenizers ---------------------------------------------------------------------------------------------


class Llama2cTokenizer:
    """Text to tokens and back, by byte-pair merges of the best score, bytes for characters that are no piece.

    ``pieces``: the text of each token in bytes; ``scores``: the higher, the sooner it is merged; ``begin``
    and ``end``: the tokens that texts begin and end with; ``size``: how many tokens there are.
    """

    begin, end = _BEGIN, _END

    def __init__(self, pieces: Sequence[bytes], scores: Sequence[float]) -> None:
        self.pieces, self.scores, self.size = tuple(pieces), tuple(scores), len(pieces)
        self._tokens = {piece: token for token, piece in enumerate(self.pieces) if token >= _PIECES}

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """Tokens of a text with a space put before it; with ``begin`` they start with that token."""
        found: list[int] = []
        for character in " " + text if text else "":
            piece = character.encode("utf-8", "replace")
            token = self._tokens.get(piece)
            found += [byte + _BYTES for byte in piece] if token is None else [token]
        return [_BEGIN] * begin + self._merge(found)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without special ones and the first space; ValueError for tokens out of range."""
        ids = [int(token) for token in ids]
        wrong = [token for token in ids if not 0 <= token < self.size]
        require(not wrong, "ids", wrong[:3], f"tokens in [0, {self.size})")
        found = b"".join(self._bytes(token) for token in ids if token >= _BYTES)
        return found.removeprefix(b" ").decode("utf-8", "replace")

    def _bytes(self, token: int) -> bytes:
        return bytes([token - _BYTES]) if token < _PIECES else self.pieces[token]

    def _merge(self, tokens: list[int]) -> list[int]:
        """Neighbours joined while any two make a piece: first the best score, then the leftmost."""
        count = len(tokens)
        best: list[tuple[float, int, tuple[int, int], int]] = []
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))

        def offer(left: int) -> None:
            right = after[left] if left >= 0 else count
            if right == count:
                return
            pair = (tokens[left], tokens[right])
            merged = self._tokens.get(self.pieces[pair[0]] + self.pieces[pair[1]])
            if merged is not None:
                heapq.heappush(best, (-self.scores[merged], left, pair, merged))

        for left in range(count):
            offer(left)
        while best:
            _, left, pair, merged = heapq.heappop(best)
            right = after[left]
            if right == count or (tokens[left], tokens[right]) != pair:
                continue  # one of the two has been joined to another
            tokens[left], tokens[right] = merged, -1
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            offer(left)
            offer(before[left])
        return [token for token in tokens if token >= 0]


def read_llama2c_tokenizer(path: str | Path, vocabulary: int) -> Llama2cTokenizer:
    """The tokenizer of a model with so many tokens.

    Raises ValueError for files that are missing, cut off, or hold more than that, and where tokens 3 to 258
    are not the bytes.
    """
    path = Path(path)
    require(path.is_file(), "path", str(path), "a tokenizer of llama2.c")
    content = path.read_bytes()
    require(len(content) >= 4, f"{path}: length", len(content), "4 bytes or more")
    longest, used = struct.unpack_from("<i", content)[0], 4
    pieces, scores = [], []
    for token in range(vocabulary):
        where = f"{path}: token {token}"
        require(used + 8 <= len(content), where, "the end of the file", f"{vocabulary} tokens")
        score, size = struct.unpack_from("<fi", content, used)
        used += 8
        require(0 <= size <= longest, f"{where}: length", size, f"bytes up to {longest}")
        require(used + size <= len(content), where, "the end of the file", f"{size} bytes")
        require(math.isfinite(score), f"{where}: score", score, "a finite number")
        pieces.append(content[used : used + size])
        scores.append(score)
        used += size
    require(used == len(content), f"{path}: length", len(content), f"{used} bytes, by {vocabulary} tokens")
    expected = [b"<0x%02X>" % byte for byte in range(256)]
    require(pieces[_BYTES:_PIECES] == expected, f"{path}: tokens 3 to 258", pieces[3:5], "bytes")
    return Llama2cTokenizer(pieces, scores)
