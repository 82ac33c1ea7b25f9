"""Text and tokens: files, chunks, tokenizers that are trained and read, the standard library's text."""

import json
import os
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest

from diffax.data import (
    Tokenizer,
    join_documents,
    load_tokenizer,
    read_documents,
    standard_library_text,
    token_chunks,
    train_tokenizer,
)
from diffax.data import corpus as corpus_module
from diffax.data.text import alpaca_text

_REAL = Path(os.environ.get("DIFFAX_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "llm"
TEXT = ["Once upon a time there was a model.", "It was small, and it was kept on a shelf."] * 20


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes and a few pairs."""
    return train_tokenizer(TEXT, 290)


def write(path, content):
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
    return path


def test_plain_files_are_whole_or_in_parts(tmp_path):
    path = write(tmp_path / "a.txt", "one\n\n two \n\n\n\n")
    assert read_documents(path) == ["one\n\n two \n\n\n\n"]
    assert read_documents(path, separator="\n\n") == ["one", "two"]


def test_rows_are_documents(tmp_path):
    rows = [{"text": "one\u2028still one", "other": 1}, {"text": "  "}, {"text": "three"}]
    path = write(tmp_path / "a.jsonl", rows)
    assert read_documents(path) == ["one\u2028still one", "three"]
    assert read_documents(write(tmp_path / "b.json", json.dumps([{"story": "four"}])), field="story") == [
        "four"
    ]


def test_parquet_gives_its_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "id": [1, 2]}), path)
    assert read_documents(path) == ["one", "two"]
    with pytest.raises(ValueError, match=r"a\.parquet: row 0: story: got None, allowed: a text"):
        read_documents(path, field="story")


def test_several_files_and_patterns(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        write(tmp_path / name, name)
    assert read_documents([tmp_path / "c.md", tmp_path / "*.txt"]) == ["c.md", "a.txt", "b.txt"]
    odd = write(tmp_path / "part[1].txt", "its name is no pattern")
    assert read_documents(odd) == ["its name is no pattern"]
    assert join_documents(["a", "b"]) == "a\n\nb"


def test_instructions_become_texts(tmp_path):
    rows = [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Stop.", "output": "Yes"}]
    first, second = read_documents(write(tmp_path / "a.jsonl", rows), template="alpaca")
    assert first == alpaca_text(rows[0])
    assert "further context" in first
    assert first.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3")
    assert "### Input" not in second
    assert "further context" not in second


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"", {}, r"a\.txt: got 'no text', allowed: one document"),
        ("a.txt", b"\xff\xfe\x00", {}, r"a\.txt: got .*allowed: UTF-8"),
        ("a.doc", b"text", {}, r"a\.doc: kind: got '\.doc', allowed: one of"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', {}, r"a\.jsonl: line 2: got"),
        ("a.jsonl", b'{"story": "a"}', {}, r"a\.jsonl: row 0: text: got None"),
        ("a.jsonl", b'{"text": 3}', {}, r"row 0: text: got 3, allowed: a text"),
        ("a.jsonl", b"[1]", {}, r"row 0: got \[1\], allowed: an object"),
        ("a.json", b'{"text": "a"}', {}, r"a\.json: got 'dict', allowed: a list"),
        ("a.jsonl", b'{"output": "a"}', {"template": "alpaca"}, "row 0: instruction: got None"),
        ("a.txt", b"a", {"template": "chat"}, "template: got 'chat'"),
        ("a.parquet", b"PAR", {}, r"a\.parquet: got .*allowed: a readable Parquet file"),
        ("a.txt", b"a", {"separator": ""}, "separator: got ''"),
    ],
)
def test_bad_files_are_named(name, content, options, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / name, **options)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"path: got '.*\*\.txt', allowed: an existing file, or a pattern"):
        read_documents(tmp_path / "*.txt")


def test_chunks_follow_one_another():
    ids = np.arange(23)
    np.testing.assert_array_equal(token_chunks(ids, 5), np.arange(20).reshape(4, 5))
    np.testing.assert_array_equal(token_chunks(ids, 5, limit=2), np.arange(10).reshape(2, 5))
    begun = token_chunks(ids, 5, begin=99)
    assert begun.shape == (5, 5)
    assert (begun[:, 0] == 99).all()
    np.testing.assert_array_equal(begun[:, 1:].ravel(), np.arange(20))


def test_chunks_are_drawn_by_seed():
    ids = np.arange(1000)
    drawn = token_chunks(ids, 10, limit=20, seed=3)
    np.testing.assert_array_equal(drawn, token_chunks(ids, 10, limit=20, seed=3))
    assert (drawn != token_chunks(ids, 10, limit=20, seed=4)).any()
    assert len(set(drawn[:, 0])) == 20
    assert (drawn[:, 0] % 10 == 0).all()
    assert list(drawn[:, 0]) != sorted(drawn[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 24}, "story: tokens: got 23, allowed: 24 or more, for 1 of length 24"),
        ({"length": 5, "limit": 5}, "story: tokens: got 23, allowed: 25 or more, for 5 of length 5"),
        ({"length": 1}, "length: got 1"),
        ({"length": 5, "limit": 0}, "limit: got 0"),
    ],
)
def test_short_texts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        token_chunks(list(range(23)), name="story", **options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "plain",
        "  two  spaces ",
        "tab\tline\r\n\n",
        "naïve Ω 漢字 🙂‍↔️",
        "\x00\x7f\ufffd",
        "ﷺ e\u0301",
        "▁Ġ",
    ],
)
def test_any_text_survives(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.begin
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.encode(text, begin=False)) == text


def test_arbitrary_unicode_survives(tokenizer):
    draw = np.random.default_rng(0)
    for _ in range(200):
        points = draw.integers(0, 0x110000, 12)
        text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_is_the_same_for_the_same(tokenizer):
    assert train_tokenizer(TEXT, 290).raw.to_str() == tokenizer.raw.to_str()
    assert tokenizer.size == 290
    assert train_tokenizer(["ab"], 400).size == 258  # nothing occurs twice
    with pytest.raises(ValueError, match="size: got 257, allowed: an integer >= 258"):
        train_tokenizer(TEXT, 257)


def test_a_text_begins_once(tokenizer):
    once = tokenizer.encode("a model")
    assert once == tokenizer.encode("<|begin|>a model")
    assert once.count(tokenizer.begin) == 1
    # what the file itself would add, for other readers
    assert list(tokenizer.raw.encode("a model").ids) == once


def test_written_tokenizers_are_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        found = load_tokenizer(path)
        assert (found.begin, found.end, found.size) == (0, 1, 290)
        assert found.encode(TEXT[0]) == tokenizer.encode(TEXT[0])
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == "<|begin|>"


@pytest.mark.parametrize(
    ("settings", "numbers", "expected"),
    [
        ({"bos_token": {"content": "<|end|>"}}, {}, (1, None)),
        ({"bos_token": None}, {"bos_token_id": 0, "eos_token_id": [1, 5]}, (None, 1)),
        (None, {"bos_token_id": 0, "eos_token_id": 1}, (0, 1)),
        (None, None, (None, None)),
    ],
)
def test_begin_and_end_are_those_of_the_files(tokenizer, tmp_path, settings, numbers, expected):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    for name, content in (("tokenizer_config.json", settings), ("config.json", numbers)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    found = load_tokenizer(tmp_path)
    assert (found.begin, found.end) == expected
    assert (found.encode("x")[0] == found.begin) == (found.begin is not None)


def test_files_that_truncate_and_pad_do_not(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    fields["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    assert load_tokenizer(tmp_path).encode(TEXT[0]) == tokenizer.encode(TEXT[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", r"tokenizer\.json: got .*allowed: a file of the tokenizers package"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: got .*allowed: JSON"),
        ("tokenizer_config.json", '{"bos_token": "<s>"}', r"_config\.json: bos_token: got '<s>'"),
        ("tokenizer_config.json", "[]", r"_config\.json: got 'list', allowed: an object"),
    ],
)
def test_bad_tokenizers_are_named(tokenizer, tmp_path, name, content, message):
    tokenizer.save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_what_is_not_there_is_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"path: got .*a folder with tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"bos_token_id": 999}')
    (tmp_path / "tokenizer.json").write_text(tokenizer.raw.to_str())
    with pytest.raises(ValueError, match=r"config\.json: bos_token_id: got 999"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"ids: got \[-1, 290\], allowed: tokens in \[0, 290\)"):
        tokenizer.decode([3, -1, 290])
    with pytest.raises(ValueError, match="begin: got 300"):
        Tokenizer(tokenizer.raw, 300)


@pytest.mark.skipif(not (_REAL / "TinyStories-656K").is_dir(), reason=f"no {_REAL}/TinyStories-656K")
def test_a_published_tokenizer_begins_texts_once():
    found = load_tokenizer(_REAL / "TinyStories-656K")
    assert (found.begin, found.end, found.size) == (1, 2, 2048)
    ids = found.encode("<|start_story|>Once upon a time, ")
    assert ids.count(1) == 1
    assert found.encode("Once upon a time, ").count(1) == 1
    assert list(found.raw.encode("<|start_story|>Once upon a time, ").ids).count(1) == 2  # why it matters
    assert found.decode(ids).strip() == "Once upon a time,"


def test_the_standard_librarys_text(monkeypatch, tmp_path):
    train, test = standard_library_text(), standard_library_text("test")
    assert train == standard_library_text("train")
    assert 200_000 < sum(map(len, train)) < 3_000_000
    assert 50_000 < sum(map(len, test)) < sum(map(len, train))
    assert not set(train) & set(test)
    assert any(textwrap.__doc__.strip() in text for text in test)
    packages = {(module.split(".")[0], corpus_module._split(module)) for module in corpus_module.MODULES}
    assert len({package for package, _ in packages}) == len(packages)
    with pytest.raises(ValueError, match="split: got 'valid'"):
        standard_library_text("valid")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ValueError, match="got 'no source', allowed: a Python with the sources"):
        standard_library_text()
