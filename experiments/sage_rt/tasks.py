"""Units of work, known by a hash of all that they depend on: the same id is the same work, anywhere."""

import hashlib
import json
import random
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One piece of a stage; ``inputs`` is what JSON can hold, lineage included."""

    id: str
    stage: str
    inputs: dict[str, Any]


class Done(NamedTuple):
    """A finished task. ``result["status"]`` is the reply's (see ``backends.base``), "ok" without one."""

    id: str
    inputs: dict[str, Any]
    result: dict[str, Any]


def canonical(value: Any) -> str:
    """JSON with one spelling for each value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*parts: Any) -> str:
    """128 bits of BLAKE2b of the parts' canonical JSON, in hexadecimal digits."""
    return hashlib.blake2b(canonical(parts).encode(), digest_size=16).hexdigest()


def make_task(stage: str, inputs: dict[str, Any], *identity: Any) -> Task:
    """A task; ``identity`` is what it depends on beside its inputs: the template, the model's name."""
    return Task(digest(stage, inputs, *identity), stage, inputs)


def draw_by(*parts: Any) -> random.Random:
    """Random numbers that follow from what they are for, in whatever order work is done."""
    return random.Random(digest(*parts))
