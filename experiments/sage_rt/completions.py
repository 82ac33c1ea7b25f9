"""Chat completions as a server sees them: what was asked, checked, and the bodies that answer it."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from diffax.checks import require
from experiments.sage_rt.backends.base import Message, Reply, Request
from experiments.sage_rt.schemas import require_schema
from experiments.sage_rt.tasks import digest

ROLES = ("system", "developer", "user", "assistant")
_FINISH = {"ok": "stop", "length": "length", "empty": "stop"}
_MOST = 16  # answers to one request
# what a client may send as long as it asks for nothing that is absent here
_ABSENT: dict[str, tuple[Any, ...]] = {
    "top_p": (1, None),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logprobs": (False, None),
    "tools": ([], None),
}


class Asked(NamedTuple):
    """``requests``: one for each answer."""

    requests: tuple[Request, ...]
    stop: tuple[str, ...]
    stream: bool
    usage: bool


class Missing(ValueError):
    """A model that is not served."""


def read(body: Any, model: str) -> Asked:
    """A body as requests. Raises ValueError naming the field; Missing for another model's name."""
    require(isinstance(body, dict), "body", type(body).__name__, "a JSON object")
    if body.get("model") != model:
        raise Missing(f"model: got {body.get('model')!r}, allowed: {model!r}")
    for field, allowed in _ABSENT.items():
        require(body.get(field) in allowed, field, body.get(field), f"one of {allowed}; others are absent")
    messages, stop = _messages(body.get("messages")), _stop(body.get("stop"))
    tokens = _integer(body, "max_completion_tokens", _integer(body, "max_tokens", 256, 1), 1)
    temperature = body.get("temperature", 1.0)
    fits = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    require(fits and 0 <= temperature <= 2, "temperature", temperature, "a number in [0, 2]")
    count = _integer(body, "n", 1, 1)
    require(count <= _MOST, "n", count, f"at most {_MOST}")
    seed = body.get("seed")
    require(seed is None or isinstance(seed, int), "seed", seed, "an integer")
    seed = os.urandom(8).hex() if seed is None else seed
    ids = [digest(messages, tokens, float(temperature), seed, place) for place in range(count)]
    schema = _schema(body.get("response_format"))
    requests = tuple(Request(one, messages, tokens, float(temperature), schema) for one in ids)
    options = body.get("stream_options") or {}
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Asked(requests, stop, bool(body.get("stream")), usage)


def finished(reply: Reply, stop: tuple[str, ...]) -> tuple[str, str]:
    """Text and finish reason of an answer, cut at the first of the stops."""
    text = reply.text
    places = [text.find(word) for word in stop if word in text]
    return (text[: min(places)], "stop") if places else (text, _FINISH[reply.status])


def whole(model: str, asked: Asked, replies: list[Reply]) -> dict[str, Any]:
    """The body of an answer."""
    choices = []
    for place, reply in enumerate(replies):
        text, finish = finished(reply, asked.stop)
        message = {"role": "assistant", "content": text, "refusal": None}
        choices.append({"index": place, "message": message, "logprobs": None, "finish_reason": finish})
    return {**_head(model, asked, "chat.completion"), "choices": choices, "usage": usage_of(replies)}


def pieces(model: str, asked: Asked, replies: list[Reply]) -> Iterator[str]:
    """The events of a stream."""
    head = _head(model, asked, "chat.completion.chunk")
    for place, reply in enumerate(replies):
        text, finish = finished(reply, asked.stop)
        words = [word + " " for word in text.split(" ")]
        words[-1] = words[-1][:-1]
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in words if word]
        for delta in deltas:
            yield _event(head, [{"index": place, "delta": delta, "finish_reason": None}])
        yield _event(head, [{"index": place, "delta": {}, "finish_reason": finish}])
    if asked.usage:
        yield _event({**head, "usage": usage_of(replies)}, [])
    yield "data: [DONE]\n\n"


def usage_of(replies: list[Reply]) -> dict[str, int]:
    """Tokens: the prompt's once, those of all answers."""
    prompt, answers = replies[0].prompt_tokens, sum(reply.completion_tokens for reply in replies)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def complaint(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": message.partition(":")[0], "code": code}}


def _head(model: str, asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{asked.requests[0].id[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _event(head: Mapping[str, Any], choices: list[dict[str, Any]]) -> str:
    return f"data: {json.dumps({**head, 'choices': choices})}\n\n"


def _messages(value: Any) -> tuple[Message, ...]:
    require(isinstance(value, list) and bool(value), "messages", value, "a list of one or more")
    return tuple(_message(place, turn) for place, turn in enumerate(value))


def _message(place: int, turn: Any) -> Message:
    where = f"messages[{place}]"
    require(isinstance(turn, dict), where, type(turn).__name__, "an object")
    require(turn.get("role") in ROLES, f"{where}.role", turn.get("role"), f"one of {ROLES}")
    content = turn.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        require(len(texts) == len(content), f"{where}.content", "parts that are no objects", "texts")
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    require(isinstance(content, str), f"{where}.content", type(content).__name__, "a text, or parts of text")
    role = "system" if turn["role"] == "developer" else turn["role"]
    return Message(role, str(content))


def _schema(value: Any) -> dict[str, Any] | None:
    if value is None or value == {"type": "text"}:
        return None
    named = value.get("json_schema") if isinstance(value, dict) else None
    schema = named.get("schema") if isinstance(named, dict) else None
    fits = isinstance(schema, dict) and value.get("type") == "json_schema"
    require(fits, "response_format", value, 'text, or json_schema with {"schema": ...}')
    require_schema(schema, "response_format.json_schema.schema")
    return dict(schema or {})


def _stop(value: Any) -> tuple[str, ...]:
    words = [] if value is None else [value] if isinstance(value, str) else value
    fits = isinstance(words, list) and all(isinstance(word, str) and word for word in words)
    require(fits, "stop", value, "a text, or a list of texts")
    return tuple(words)


def _integer(body: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(fits, name, value, f"an integer >= {least}")
    return int(value)
