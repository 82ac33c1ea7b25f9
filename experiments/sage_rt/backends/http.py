"""A model behind an OpenAI-compatible endpoint: attempts, waiting and an end for every request."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from diffax import checks
from experiments.sage_rt.backends import chat
from experiments.sage_rt.backends.address import endpoint
from experiments.sage_rt.backends.base import Reply, Request
from experiments.sage_rt.backends.keys import read_key, scrub, scrub_reply
from experiments.sage_rt.backends.retrying import backoff, retry_after
from experiments.sage_rt.limiter import Broken, Limiter
from experiments.sage_rt.parsing import Malformed, read_json
from experiments.sage_rt.schemas import require_schema

_AGAIN = (408, 409, 429)  # and 5xx
_DENIALS = (401, 402, 403, 404, 407)  # and 3xx: of the address or the key, so the next would fare no better
_DRAWS = 3  # of a reply that has to follow a schema
_REASON = 200  # characters


class _Answer(NamedTuple):
    """What came over the wire; ``status`` 0 and a ``fault`` where no whole answer did."""

    status: int = 0
    body: bytes = b""
    fault: str = ""
    key: str = ""
    unreachable: bool = False
    wait: float | None = None

    @property
    def again(self) -> bool:
        """Whether another attempt may fare better."""
        return not self.status or self.status in _AGAIN or self.status >= 500


@dataclass
class _Tally:
    """What all attempts at one reply took."""

    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class _TooLarge(Exception):
    pass


class HttpBackend:
    """Chat completions at ``url``.

    A redirect is an error, not followed. Statuses 408, 409, 429 and 5xx, broken connections and bodies that
    are no completion are tried again, others not. A reply that does not follow its schema is asked for again,
    with another seed and nothing else changed. ``Reply.seconds`` are those in flight, without the queue.

    Args:
        url: up to where ``/chat/completions`` follows.
        model: as the server names it.
        key_env: environment variable with the API key, read at each send; "" sends none.
        concurrency: most requests in flight.
        timeout: seconds for an attempt, from its send.
        stall: seconds without a byte; an answer comes whole, so no less than a generation takes.
        attempts: for a reply.
        allow_hosts: hosts that may be sent to beside this machine.
        limiter: shared by backends at one endpoint; by default one's own.
        backoff: seconds, which double with each attempt.
        longest_wait: most seconds to wait because the server asks for it.
        most_bytes: of a body.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str = "",
        concurrency: int = 16,
        timeout: float = 600.0,
        stall: float = 300.0,
        attempts: int = 6,
        allow_hosts: Collection[str] = (),
        limiter: Limiter | None = None,
        backoff: float = 0.5,
        longest_wait: float = 120.0,
        most_bytes: int = 2**23,
    ) -> None:
        checks.require(bool(model), "model", model, "a name")
        for name, value in (("timeout", timeout), ("stall", stall), ("most_bytes", most_bytes)):
            checks.require(value > 0, name, value, "more than 0")
        for name, value in (("attempts", attempts), ("concurrency", concurrency)):
            checks.require(value >= 1, name, value, "1 or more")
        self._url, self._model, self._key_env = endpoint(url, allow_hosts), model, key_env
        self.name, self.concurrency = f"{model}@{self._url}", concurrency
        self.limiter = limiter or Limiter(concurrency, concurrency)
        self._attempts, self._backoff = attempts, backoff
        self._longest_wait, self._most_bytes = longest_wait, most_bytes
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=stall, sock_read=stall)
        self._session: aiohttp.ClientSession | None = None

    async def reply(self, request: Request) -> Reply:
        """Ask until there is a reply, or no more to be had."""
        if request.schema is not None:
            require_schema(request.schema)
        tally = _Tally()
        try:
            for draw in range(_DRAWS):
                reply = _held_to(request.schema, await self._ask(request, draw, tally))
                if reply.status != "malformed":
                    break
        except Broken as error:
            reply = Reply("error", reason=str(error))
        return reply._replace(**vars(tally))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, request: Request, draw: int, tally: _Tally) -> Reply:
        content = chat.encode(self._model, request, draw)
        for attempt in range(1, self._attempts + 1):
            async with self.limiter.slot() as ticket:
                answer = await self._send(content, tally)
                reply, again = _judge(answer, tally)
                self._report(answer, reply, ticket)  # in the slot still: a pause has to hold the next one
            if not again:
                return reply
            if attempt < self._attempts:
                await asyncio.sleep(backoff(f"{request.id}/{draw}", attempt - 1, self._backoff, answer.wait))
        if answer.unreachable:
            self.limiter.denied(reply.reason)
        return reply._replace(reason=f"{self._attempts} attempts, the last: {reply.reason}")

    def _report(self, answer: _Answer, reply: Reply, ticket: int) -> None:
        """Tell the limiter."""
        if answer.wait:
            self.limiter.pause(answer.wait)
        if answer.status == 429:
            self.limiter.throttled(ticket)
        elif answer.status in _DENIALS or 300 <= answer.status < 400:
            self.limiter.denied(reply.reason)
        elif reply.status != "error":
            self.limiter.succeeded()

    async def _send(self, content: bytes, tally: _Tally) -> _Answer:
        key = read_key(self._key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else None
        tally.attempts += 1
        begun = time.monotonic()
        try:
            async with self._open().post(
                self._url, data=content, headers=headers, allow_redirects=False
            ) as response:
                return await self._receive(response, key)
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            unreachable = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            return _Answer(fault=self._fault(error), key=key, unreachable=unreachable)
        finally:
            tally.seconds += time.monotonic() - begun

    async def _receive(self, response: aiohttp.ClientResponse, key: str) -> _Answer:
        status = response.status
        if status == 200:
            wait = None
        else:
            wait = retry_after(response.headers, self._longest_wait)
        try:
            return _Answer(status, await _read(response, self._most_bytes), key=key, wait=wait)
        except _TooLarge:
            response.close()
            return _Answer(status, fault=f"a body of more than {self._most_bytes} bytes", key=key, wait=wait)
        except (aiohttp.ClientError, OSError):
            if status == 200:
                raise
            return _Answer(status, key=key, wait=wait)  # the status says enough

    def _fault(self, error: Exception) -> str:
        """In words of ours: those of the error may hold what was sent."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return "no connection in time"
        if isinstance(error, aiohttp.ServerTimeoutError):
            return f"stalled: no byte for {self._timeout.sock_read:g} s"
        if isinstance(error, TimeoutError):
            return f"no whole answer within {self._timeout.total:g} s"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"no connection: {type(error.os_error).__name__}"
        return (
            "a body that ends early"
            if isinstance(error, aiohttp.ClientPayloadError)
            else type(error).__name__
        )

    def _open(self) -> aiohttp.ClientSession:
        """The session; made within a running loop, to which it belongs. The limiter says how many, not it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=300),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=self._timeout,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


def _judge(answer: _Answer, tally: _Tally) -> tuple[Reply, bool]:
    """The reply that an answer amounts to, and whether to try again."""
    if answer.fault:
        return Reply("error", reason=answer.fault), answer.again
    said = chat.decode(answer.body)
    tally.prompt_tokens += said.prompt_tokens
    tally.completion_tokens += said.completion_tokens
    if 200 <= answer.status < 300 and said.status != "error":
        return Reply(said.status, scrub_reply(said.text, answer.key), said.reason), False
    what = said.reason if 200 <= answer.status < 300 else "redirect" if 300 <= answer.status < 400 else ""
    text = " ".join(scrub(said.text, answer.key).split())[:_REASON]  # scrubbed whole: half a key is one too
    reason = ": ".join(filter(None, (f"{answer.status} {what}".strip(), text)))
    return Reply("error", reason=reason), answer.again or answer.status < 300


def _held_to(schema: dict[str, Any] | None, reply: Reply) -> Reply:
    if schema is None or reply.status != "ok":
        return reply
    try:
        read_json(reply.text, schema)
    except Malformed as error:
        return reply._replace(status="malformed", reason=str(error))
    return reply
