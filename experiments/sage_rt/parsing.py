"""JSON out of what models write: a ladder from the strict reading down to small repairs."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from experiments.sage_rt.schemas import mismatch

Rung = Literal["strict", "slice", "control", "repaired"]

_LONGEST = 2**20  # characters that the lower rungs look at
_SLICES = 16  # openings of brackets that are followed to their end
_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_MARK = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\]]', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
_TOKEN = re.compile(
    r"""(?P<string>"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\\Z)?|'[^'\\]*(?:\\.[^'\\]*)*(?:'|\\\Z)?)"""
    r"""|(?P<mark>[{}\[\],:])|(?P<space>\s+)|(?P<word>[^\s"'{}\[\],:]+)""",
    re.DOTALL,
)
_CLOSING = {"{": "}", "[": "]"}
_WORDS = {"True": "true", "False": "false", "None": "null"}


class Malformed(ValueError):
    """No rung read it, or what was read does not follow the schema."""


class Parsed(NamedTuple):
    """What was read, and the rung that did it."""

    value: Any
    rung: Rung


def read_json(text: str, schema: dict[str, Any] | None = None) -> Parsed:
    """The JSON value in a model's text: the first that can be read and follows the schema, if there is one.

    Rungs: "strict" is the text as it is; "slice" a fenced block, or brackets with their content; "control"
    the same without control characters; "repaired" also without trailing commas, with double quotes and with
    brackets closed. Texts beyond a mebibyte are read strictly only.

    Raises:
        Malformed: with what was wrong at first. Schemas are as ``require_schema`` allows them.
    """
    first = ""
    for candidate, rung, load in _candidates(text):
        try:
            value = load(candidate)
            wrong = mismatch(value, schema) if schema is not None else ""
        except Unreadable as error:
            wrong = str(error)
        else:
            if not wrong:
                return Parsed(value, rung)
        first = first or wrong
    raise Malformed(f"reply: got {first}, allowed: JSON that follows the schema")


class Unreadable(Exception):
    """This candidate is no JSON."""


def _candidates(text: str) -> Iterator[tuple[str, Rung, Callable[[str], Any]]]:
    yield text, "strict", _load
    if len(text) > _LONGEST:
        return
    slices = [*_fences(text), *sorted(_slices(text), key=len, reverse=True)]
    for each in slices:
        yield each, "slice", _load
    for each in (text, *slices):
        yield _CONTROL.sub("", each), "control", _load_loosely
    for each in _wide_slices([*_fences(text), text]):
        yield each, "repaired", _load_repaired


def _load(text: str, strict: bool = True) -> Any:
    try:
        value = json.loads(text, strict=strict, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be written
    except RecursionError:
        raise Unreadable("JSON that is nested too deeply") from None
    except ValueError as error:  # also numbers of too many digits
        raise Unreadable(f"no JSON ({error})") from None
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _load_loosely(text: str) -> Any:
    return _load(text, strict=False)


def _load_repaired(text: str) -> Any:
    value = _load(_repair(_CONTROL.sub("", text)), strict=False)
    if not value:
        raise Unreadable("no JSON (nothing in the brackets)")  # a stray "{" is not an empty object
    return value


def _fences(text: str) -> list[str]:
    return [found.group(1) for found in _FENCE.finditer(text)][:_SLICES]


def _slices(text: str) -> Iterator[str]:
    """Outermost brackets with all between them; quotes before them are prose, within them strings."""
    begin = 0
    for _ in range(_SLICES):
        opening = _OPENING.search(text, begin)
        if not opening:
            return
        end = _end(text, opening.start())
        if end:
            yield text[opening.start() : end]
        begin = end or opening.end()


def _end(text: str, begin: int) -> int:
    """Where the bracket at ``begin`` is closed; 0 where it never is."""
    depth = 0
    for mark in _MARK.finditer(text, begin):
        if mark.group() in ("{", "["):
            depth += 1
        elif mark.group() in ("}", "]"):
            depth -= 1
            if not depth:
                return mark.end()
    return 0


def _wide_slices(texts: Iterable[str]) -> Iterator[str]:
    """From the first opening to the last closing, and to the end: what a repair may need."""
    for text in texts:
        opening = _OPENING.search(text)
        if opening:
            last = max(text.rfind("}"), text.rfind("]")) + 1
            if last > opening.end():
                yield text[opening.start() : last]
            yield text[opening.start() :]


def _repair(text: str) -> str:
    """Double quotes for single ones, JSON's words for Python's, no trailing commas, all brackets closed."""
    out: list[str] = []
    closings: list[str] = []
    for token in _TOKEN.finditer(text):
        found = token.group()
        if token.lastgroup == "space":
            continue
        if found in ("}", "]"):
            _drop_comma(out)
            if closings:
                closings.pop()  # a wrong one is left for the reader to find
        elif found in _CLOSING:
            closings.append(_CLOSING[found])
        out.append(_quote(found) if token.lastgroup == "string" else _WORDS.get(found, found))
    _drop_comma(out)
    return " ".join([*out, *reversed(closings)])  # apart, lest two numbers become one


def _drop_comma(out: list[str]) -> None:
    if out and out[-1] == ",":
        out.pop()


def _quote(text: str) -> str:
    """A string in double quotes, closed where it ran to the end."""
    mark, body = text[0], text[1:]
    closed = body.endswith(mark) and not _is_escaped(body)
    if closed or _is_escaped(body + mark):  # else a backslash with nothing behind it
        body = body[:-1]
    if mark == "'":
        body = re.sub(r"\\'", "'", body)
        body = re.sub(r'(\\.)|"', lambda found: found.group(1) or '\\"', body, flags=re.DOTALL)
    return f'"{body}"'


def _is_escaped(text: str) -> bool:
    """Whether an odd number of backslashes stands before the last character."""
    before = text[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1
