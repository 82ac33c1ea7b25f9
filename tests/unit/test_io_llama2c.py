"""Models and tokenizers of llama2.c: a forward like theirs, merges by hand, and the published text."""

import os
import struct
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.io.decoder_files import read_decoder
from diffax.io.llama2c import Llama2cTokenizer, read_llama2c, read_llama2c_tokenizer
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import generate

_REAL = Path(os.environ.get("DIFFAX_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "llm"
SIZES = {"dim": 16, "hidden": 24, "layers": 2, "heads": 4, "kv_heads": 2, "vocabulary": 11, "positions": 12}


def real(*names):
    """Files of the shared data; skips without them."""
    found = [_REAL / name for name in names]
    if not all(path.exists() for path in found):
        pytest.skip(f"no {', '.join(names)} in {_REAL}")
    return found


# -- models -------------------------------------------------------------------------------------------------


def arrays_of(tied, **changes):
    """Header and random arrays in the order of the file."""
    dim, hidden, layers, heads, kv_heads, vocabulary, positions = {**SIZES, **changes}.values()
    kv, table = dim // heads * kv_heads, (positions, dim // heads // 2)
    shapes = {
        "embed": (vocabulary, dim),
        "att_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv, dim),
        "wv": (layers, kv, dim),
        "wo": (layers, dim, dim),
        "ffn_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "norm": (dim,),
        "cos": table,
        "sin": table,
        **({} if tied else {"head": (vocabulary, dim)}),
    }
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    header = (dim, hidden, layers, heads, kv_heads, vocabulary if tied else -vocabulary, positions)
    return header, arrays


def store(path, header, arrays):
    path.write_bytes(struct.pack("<7i", *header) + b"".join(a.tobytes() for a in arrays.values()))
    return path


def theirs(w, text, heads, kv_heads):
    """Logits as run.c computes them: a token at a time, neighbours rotated, in float64."""

    def norm(x, scale):
        return x / np.sqrt(np.mean(x * x) + 1e-5) * scale

    w = {name: value.astype(np.float64) for name, value in w.items()}
    size, logits, past = w["wq"].shape[1] // heads, [], [([], []) for _ in w["wq"]]

    def rotate(x, position):
        for i in range(0, len(x), 2):
            angle = position * 10000.0 ** (-(i % size) / size)
            x[i], x[i + 1] = (
                x[i] * np.cos(angle) - x[i + 1] * np.sin(angle),
                x[i] * np.sin(angle) + x[i + 1] * np.cos(angle),
            )
        return x

    for position, token in enumerate(text):
        x = w["embed"][token].copy()
        for n, (keys, values) in enumerate(past):
            y = norm(x, w["att_norm"][n])
            q = rotate(w["wq"][n] @ y, position)
            keys.append(rotate(w["wk"][n] @ y, position))
            values.append(w["wv"][n] @ y)
            mixed = []
            for h in range(heads):
                own = slice(h * kv_heads // heads * size, (h * kv_heads // heads + 1) * size)
                scores = np.array([q[h * size : (h + 1) * size] @ k[own] for k in keys]) / np.sqrt(size)
                shares = np.exp(scores - scores.max())
                mixed.append(sum(s * v[own] for s, v in zip(shares / shares.sum(), values, strict=True)))
            x = x + w["wo"][n] @ np.concatenate(mixed)
            y = norm(x, w["ffn_norm"][n])
            gate = w["w1"][n] @ y
            x = x + w["w2"][n] @ (gate / (1 + np.exp(-gate)) * (w["w3"][n] @ y))
        logits.append(w.get("head", w["embed"]) @ norm(x, w["norm"]))
    return np.array(logits)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_a_forward_like_theirs(tmp_path, tied):
    header, arrays = arrays_of(tied)
    config, params = read_llama2c(store(tmp_path / "model.bin", header, arrays))
    assert (config.tied, config.kv_heads, config.head_size) == (tied, 2, 4)
    text = [1, 7, 3, 3, 0, 10, 5]
    ours = DecoderLM(config).apply({"params": params}, jnp.array([text]))[0]
    expected = theirs(arrays, text, 4, 2)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, 0, "dim: got 0, allowed: an integer >= 1"),
        (0, 20, "dim: got 20, allowed: a multiple of 2 \\* 4 heads"),
        (1, -24, "hidden_dim: got -24"),
        (2, 3, "length: got"),
        (4, 3, "n_kv_heads: got 3, allowed: a divisor of 4 heads"),
        (5, 0, "vocab_size: got 0"),
        (6, 2**30, "length: got"),
        (0, 0x616B3432, "version: got 24, allowed: 0"),
    ],
)
def test_bad_headers(tmp_path, field, value, message):
    header, arrays = arrays_of(True)
    changed = [value if number == field else old for number, old in enumerate(header)]
    with pytest.raises(ValueError, match=message):
        read_llama2c(store(tmp_path / "model.bin", changed, arrays))


def test_bad_model_files(tmp_path):
    with pytest.raises(ValueError, match="path: got"):
        read_llama2c(tmp_path / "none.bin")
    header, arrays = arrays_of(True)
    path = store(tmp_path / "model.bin", header, arrays)
    content = path.read_bytes()
    for damaged in (content[:-4], content[:-1], content + b"0000", content[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.bin: length: got"):
            read_llama2c(path)
    arrays["w2"][1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="down: got 'NaN or infinity'"):
        read_llama2c(store(path, header, arrays))


def test_a_real_model_is_its_conversion_and_says_the_published_text():
    folder, converted = real("stories260K", "stories260K-hf")
    (config, params), (same, expected) = read_llama2c(folder / "stories260K.bin"), read_decoder(converted)
    assert config == same
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    tokenizer = read_llama2c_tokenizer(folder / "tok512.bin", config.vocabulary)
    text = (folder / "greedy_reference.txt").read_text().strip()
    steps = len(tokenizer.encode(text)) - 1
    said = generate(DecoderLM(config), params, jnp.array([[tokenizer.begin]]), steps)
    assert tokenizer.decode(said[0].tolist()) == text


# -- tokenizers ---------------------------------------------------------------------------------------------

PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]
MORE = {b" ": -1.0, b"a": -1.0, b"b": -1.0, b"ab": -3.0, b"aa": -2.0, b" a": -4.0, b"aab": -5.0, b"aaa": -9.0}


@pytest.fixture
def tokenizer():
    return Llama2cTokenizer([*PIECES, *MORE], [0.0] * 259 + list(MORE.values()))


def spelled(tokenizer, ids):
    return [tokenizer.pieces[token].decode() for token in ids]


def test_merges_take_the_best_score_and_then_the_leftmost(tokenizer):
    expected = {
        "ab": [" ", "ab"],  # -3 before -4, which is then no longer there
        "aab": [" ", "aab"],  # aa, then aab
        "aaa": [" ", "aaa"],  # the left aa
        "aaaa": [" ", "aa", "aa"],
        "ba": [" ", "b", "a"],
        "": [],
    }
    for text, pieces in expected.items():
        assert spelled(tokenizer, tokenizer.encode(text, begin=False)) == pieces
        assert tokenizer.encode(text)[0] == tokenizer.begin


def test_characters_that_are_no_piece_are_bytes(tokenizer):
    ids = tokenizer.encode("é\n", begin=False)
    assert spelled(tokenizer, ids) == [" ", "<0xC3>", "<0xA9>", "<0x0A>"]
    for text in ("é\n", " aab <s> 漢\0", "a", ""):
        assert tokenizer.decode([*tokenizer.encode(text), tokenizer.end]) == text
    assert tokenizer.decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ValueError, match=r"ids: got \[267\], allowed: tokens in \[0, 267\)"):
        tokenizer.decode([267])


def test_merges_are_those_of_a_plain_search(tokenizer):
    """A heap of candidates finds what looking at all neighbours again and again does."""
    random = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(random.choice(list("ab "), 40))
        tokens = [tokenizer.pieces.index(c.encode()) for c in " " + text]
        while True:
            pairs = [tokenizer.pieces[a] + tokenizer.pieces[b] for a, b in pairwise(tokens)]
            scores = [MORE.get(pair, -np.inf) for pair in pairs]
            if max(scores, default=-np.inf) == -np.inf:
                break
            best = int(np.argmax(scores))
            tokens[best : best + 2] = [tokenizer.pieces.index(pairs[best])]
        assert tokenizer.encode(text, begin=False) == tokens


def test_tokenizer_files(tmp_path, tokenizer):
    rows = [
        struct.pack("<fi", score, len(p)) + p
        for p, score in zip(tokenizer.pieces, tokenizer.scores, strict=True)
    ]
    content, path = struct.pack("<i", 6) + b"".join(rows), tmp_path / "tok.bin"
    path.write_bytes(content)
    found = read_llama2c_tokenizer(path, 267)
    assert (found.pieces, found.scores, found.size) == (tokenizer.pieces, tokenizer.scores, 267)
    nan = content.replace(rows[-1], struct.pack("<fi", np.nan, 3) + b"aaa")
    for damaged, vocabulary, message in (
        (content[:-1], 267, r"tok\.bin: token 266: got 'the end of the file', allowed: 3 bytes"),
        (content, 268, "token 267: got 'the end of the file', allowed: 268 tokens"),
        (content + b"0", 267, "length: got"),
        (content, 266, "length: got"),
        (b"0", 267, "length: got 1"),
        (struct.pack("<i", 5) + content[4:], 267, "token 2: length: got 6"),
        (content.replace(b"<0x00>", b"<0x01>"), 267, "tokens 3 to 258: got"),
        (nan, 267, "token 266: score: got nan"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            read_llama2c_tokenizer(path, vocabulary)
    with pytest.raises(ValueError, match="path: got"):
        read_llama2c_tokenizer(tmp_path / "none", 267)


def test_a_real_tokenizer_is_its_conversion():
    pytest.importorskip("tokenizers")
    from diffax.data.tokenizer import load_tokenizer

    file, converted, text = real(
        "stories260K/tok512.bin", "stories260K-hf", "text/tinystories_valid_excerpt.txt"
    )
    ours, peer = read_llama2c_tokenizer(file, 512), load_tokenizer(converted)
    for each in (text.read_text(), "Ünïcödé 漢字 🙂\n\ttab  two", " lead", "", "a"):
        ids = ours.encode(each)
        assert ids == peer.encode(each)
        assert ours.decode(ids) == peer.decode(ids) == each
