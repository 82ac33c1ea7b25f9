"""Local text: documents from files, joined, and cut into chunks of tokens.

    documents = read_documents("wikitext/test.parquet")
    ids = tokenizer.encode(join_documents(documents))
    chunks = token_chunks(ids, 2048)                        # to measure on
    chunks = token_chunks(ids, 2048, limit=128, seed=0)     # to calibrate with

Nothing here reaches for a network.
"""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from diffax.checks import require, require_one_of
from diffax.data.optional import optional_import
from diffax.data.source import Item, SourceSpec

PLAIN = (".txt", ".md")
ROWS = (".jsonl", ".json", ".parquet")
TEMPLATES = ("plain", "alpaca")
_GAP = "\n\n"
_ASKED = (
    "Below is an instruction that describes a task{more}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
)
_PAIRED = ", paired with an input that provides further context"


def read_documents(
    paths: str | Path | Sequence[str | Path],
    *,
    separator: str | None = None,
    field: str = "text",
    template: str = "plain",
) -> list[str]:
    r"""Documents of one file or several, in the order given; names with ``*`` stand for all that fit, sorted.

    ``.txt`` and ``.md``: the whole file, or what lies between ``separator`` ("\n\n", "<|endoftext|>"),
    without the white space around it. ``.jsonl``, ``.json`` (a list of objects), ``.parquet``: ``field`` of
    each row; with the template "alpaca" instruction, input and output, see :func:`alpaca_text`. Blank
    documents are left out. Raises ValueError naming the file (and the row) for files that are missing,
    damaged, of another kind, without the field, or without any document.
    """
    require_one_of("template", template, TEMPLATES)
    require(separator != "", "separator", separator, "None, or a text of one character or more")
    files = [file for path in ([paths] if isinstance(paths, str | Path) else paths) for file in _files(path)]
    require(bool(files), "paths", paths, "one file or more")
    found: list[str] = []
    for file in files:
        require_one_of(f"{file}: kind", file.suffix.lower(), PLAIN + ROWS)
        if file.suffix.lower() in PLAIN:
            some = _plain(file, separator)
        else:
            some = [_row_text(file, n, row, field, template) for n, row in enumerate(_rows(file, field))]
        some = [text for text in some if text.strip()]
        require(bool(some), str(file), "no text", "one document or more")
        found += some
    return found


def join_documents(documents: Sequence[str]) -> str:
    """One text of all, with an empty line between any two: what perplexities are published for."""
    return _GAP.join(documents)


def alpaca_text(row: Mapping[str, Any]) -> str:
    """Instruction, input (if any) and output as one text, in the words of the Alpaca data (Taori et al. 2023,
    github.com/tatsu-lab/stanford_alpaca). Raises ValueError without an instruction and an output."""
    for name in ("instruction", "output"):
        require(isinstance(row.get(name), str), name, row.get(name), "a text")
    given = row.get("input") or ""
    asked = _ASKED.format(more=_PAIRED if given else "", instruction=row["instruction"])
    more = f"### Input:\n{given}\n\n" if given else ""
    return f"{asked}{more}### Response:\n{row['output']}"


def token_chunks(
    ids: Sequence[int] | Int[np.ndarray, "n"],
    length: int,
    limit: int | None = None,
    seed: int | None = None,
    *,
    begin: int | None = None,
    name: str = "text",
) -> Int[np.ndarray, "m t"]:
    """Chunks of ``length`` tokens that follow one another; what is left at the end is dropped.

    ``limit`` of them, the first, or with a ``seed`` drawn without replacement, in random order. ``begin``: a
    token put before each, which counts as one of its ``length``. Raises ValueError, naming ``name``, for a
    text of too few tokens for one chunk, or for ``limit``.
    """
    require(length >= 2, "length", length, "an integer >= 2")
    require(limit is None or limit >= 1, "limit", limit, "None or an integer >= 1")
    ids, own = np.asarray(ids, np.int32), length - (begin is not None)
    count = len(ids) // own
    needed = own * (limit or 1)
    allowed = f"{needed} or more, for {limit or 1} of length {length}"
    require(len(ids) >= needed, f"{name}: tokens", len(ids), allowed)
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    chunks = ids[: count * own].reshape(count, own)[order[:limit]]
    return chunks if begin is None else np.insert(chunks, 0, begin, axis=1)


class TokenSource:
    """Chunks of tokens as a source: items ``{"tokens": int32 (t,)}``."""

    def __init__(self, chunks: Int[np.ndarray, "n t"]) -> None:
        self._chunks = np.asarray(chunks, np.int32)
        self.spec = SourceSpec({"tokens": self._chunks.shape[1:]}, {"tokens": np.dtype(np.int32)})

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> Item:
        return {"tokens": self._chunks[index]}


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a ``.jsonl`` or ``.json`` file. Raises ValueError naming the file and the line."""
    path = Path(path)
    text = _read(path)
    if path.suffix.lower() == ".json":
        rows = _parse(str(path), text)
        require(isinstance(rows, list), str(path), type(rows).__name__, "a list of objects")
    else:
        lines = enumerate(text.split("\n"), 1)  # splitlines would break rows at other marks in strings
        rows = [_parse(f"{path}: line {number}", line) for number, line in lines if line.strip()]
    for number, row in enumerate(rows):
        require(isinstance(row, dict), f"{path}: row {number}", row, "an object")
    return rows


def _files(path: str | Path) -> list[Path]:
    if Path(path).is_file():  # whatever its name
        return [Path(path)]
    fits = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    require(bool(fits), "path", str(path), "an existing file, or a pattern that fits one")
    return fits


def _read(path: Path) -> str:
    require(path.is_file(), "path", str(path), "an existing file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: got {error!s}, allowed: UTF-8") from error


def _plain(path: Path, separator: str | None) -> list[str]:
    text = _read(path)
    return [text] if separator is None else [part.strip() for part in text.split(separator)]


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: got {error!s}, allowed: JSON") from error


def _rows(path: Path, field: str) -> Iterator[Mapping[str, Any]]:
    return _parquet(path, field) if path.suffix.lower() == ".parquet" else iter(read_rows(path))


def _parquet(path: Path, field: str) -> Iterator[Mapping[str, Any]]:
    """Rows, of which only the fields that may be needed are read."""
    parquet = optional_import("pyarrow.parquet", "text")
    try:
        file = parquet.ParquetFile(path)
        names = set(file.schema_arrow.names) & {field, "instruction", "input", "output"}
        for batch in file.iter_batches(columns=sorted(names)):
            yield from batch.to_pylist()
    except Exception as error:  # pyarrow's errors share no base class with OSError
        raise ValueError(f"{path}: got {error!s}, allowed: a readable Parquet file") from error


def _row_text(path: Path, number: int, row: Mapping[str, Any], field: str, template: str) -> str:
    where = f"{path}: row {number}"
    if template == "plain":
        require(isinstance(row.get(field), str), f"{where}: {field}", row.get(field), "a text")
        return row[field]
    try:
        return alpaca_text(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
