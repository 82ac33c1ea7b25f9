"""What every backend takes and gives: one request, one reply; what a model or a server does never raises."""

from typing import Any, Literal, NamedTuple, Protocol, get_args

Status = Literal["ok", "length", "blocked", "malformed", "empty", "error"]
STATUSES: tuple[str, ...] = get_args(Status)


class Message(NamedTuple):
    """One turn of a conversation: "system", "user" or "assistant"."""

    role: str
    content: str


class Request(NamedTuple):
    """A conversation that the model goes on with.

    ``id`` is a hash of all that the reply may depend on (see ``tasks``), so it seeds what is drawn: the same
    request has the same reply in every batch. ``schema``: JSON schema that the reply has to follow, or None.
    """

    id: str
    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    schema: dict[str, Any] | None = None


class Reply(NamedTuple):
    """What came back, after all attempts.

    ``status``: "ok"; "length" (cut off at ``max_tokens``); "blocked" (a filter of the endpoint); "malformed"
    (JSON that no rung of the ladder could read); "empty"; "error" (``reason`` says which). ``attempts``,
    ``prompt_tokens`` and ``completion_tokens`` are over all attempts: costs count failed ones.
    """

    status: Status
    text: str = ""
    reason: str = ""
    attempts: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Backend(Protocol):
    """A model that answers. ``name`` identifies it (with its settings) in the ids of tasks; ``concurrency``
    is how many requests are worth having in flight."""

    name: str
    concurrency: int

    async def reply(self, request: Request) -> Reply:
        """Answer a request; only bad input of the caller raises."""
        ...

    async def close(self) -> None:
        """Give back connections and devices."""
        ...
