"""Chat completions as they are on the wire: the body of a request, and what a body that came back says."""

import hashlib
import json
from typing import Any, NamedTuple

from experiments.sage_rt.backends.base import Request, Status

_STATUSES: dict[str, Status] = {"length": "length", "content_filter": "blocked"}


class Answer(NamedTuple):
    """A body as read; "error" if it is no completion, and then ``text`` is what else it says."""

    status: Status
    text: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def encode(model: str, request: Request, draw: int) -> bytes:
    """The body; its seed is of the request and of which draw this is."""
    digest = hashlib.blake2b(f"{request.id}/{draw}".encode(), digest_size=4).digest()
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": int.from_bytes(digest, "big") >> 1,  # some servers take 31 bits
    }
    if request.schema is not None:
        named = {"name": "reply", "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return json.dumps(body).encode()


def decode(body: bytes) -> Answer:
    """What a body says, whatever it is."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return Answer("error", body[:4096].decode(errors="replace"), "a body that is no JSON")
    if not isinstance(found, dict):
        return Answer("error", "", "JSON that is no object")
    usage = _dict(found.get("usage"))
    counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return Answer("error", _complaint(found), "JSON without choices", *counts)
    return _read_choice(choice)._replace(prompt_tokens=counts[0], completion_tokens=counts[1])


def _read_choice(choice: dict[str, Any]) -> Answer:
    message, finish = choice["message"], choice.get("finish_reason")
    text = _writable(_text(message.get("content")) or _text(message.get("refusal")))
    status = _STATUSES.get(finish, "ok") if isinstance(finish, str) else "ok"
    if status == "blocked":
        return Answer(status, text, "content_filter")
    if not text.strip():
        return Answer("empty", reason="length" if status == "length" else "")
    return Answer(status, text)


def _text(content: Any) -> str:
    """Texts may come in parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _complaint(found: dict[str, Any]) -> str:
    """Servers say what is wrong in one of these places."""
    error = found.get("error")
    for text in (_dict(error).get("message"), error, found.get("message"), found.get("detail")):
        if isinstance(text, str):
            return _writable(text)
    return ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
