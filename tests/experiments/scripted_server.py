"""A chat-completions server on this machine that fails as a plan says, and keeps what it was sent.

    async with scripted_server(plan) as server:
        server.url, server.log

A plan is a function of the request's digest and of how often it was seen before; it gives an action:
"ok", a status such as "503", "429 SECONDS" (Retry-After), "429 date SECONDS" (the same as an HTTP date),
"drop" (no answer), "silent" (no byte), "stall" (half a body, then nothing), "slow" (in pieces), "truncated",
"redirect", "html", "no choices", "list", "filter", "length", "refusal", "empty", "surrogate", "huge", "echo"
(401 with the headers sent), or "text ..." for a reply's text.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import formatdate
from typing import Any, NamedTuple

from aiohttp import web

Plan = Callable[[str, int], str]
Play = Callable[[list[dict[str, str]]], str]


class Seen(NamedTuple):
    """A request as it came, and what was done."""

    time: float
    digest: str
    count: int
    action: str
    body: dict[str, Any]
    authorization: str = ""


class Server(NamedTuple):
    """``most``: the most that were in flight together, in a list of one."""

    url: str
    log: list[Seen]
    most: list[int]


def digest_of(messages: list[Mapping[str, str]]) -> str:
    """Of the conversation only: a seed may change, and the request is the same."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


def seeded_plan(seed: int, faults: tuple[str, ...], share: float = 0.5, most: int = 3) -> Plan:
    """Faults drawn for each request by itself, in any order of requests; fewer than ``most`` for one."""

    def plan(digest: str, count: int) -> str:
        draw = random.Random(f"{seed}/{digest}/{count}")
        return draw.choice(faults) if count < most and draw.random() < share else "ok"

    return plan


def closed_port() -> int:
    """Where connections are refused."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.asynccontextmanager
async def scripted_server(
    plan: Plan = lambda digest, count: "ok", seconds: float = 0.0, play: Play | None = None
) -> AsyncIterator[Server]:
    """The server, at a free port, while the block runs; ``seconds`` is how long each request takes, ``play``
    writes the replies of "ok"."""
    handler = _Handler(plan, seconds, play)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler.answer)
    app.router.add_route("*", "/elsewhere", handler.elsewhere)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield Server(f"http://{host}:{port}/v1", handler.log, handler.most)
    finally:
        handler.end.set()
        await runner.cleanup()


class _Handler:
    def __init__(self, plan: Plan, seconds: float, play: Play | None) -> None:
        self.log: list[Seen] = []
        self.most, self._flying = [0], 0
        self.end = asyncio.Event()
        self._plan, self._seconds, self._play = plan, seconds, play
        self._counts: Counter[str] = Counter()

    async def elsewhere(self, request: web.Request) -> web.Response:
        self.log.append(Seen(time.time(), "", 0, "elsewhere", {}))
        return web.Response()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        digest = digest_of(body["messages"])
        action = self._plan(digest, self._counts[digest])
        sent = request.headers.get("Authorization", "")
        self.log.append(Seen(time.time(), digest, self._counts[digest], action, body, sent))
        self._counts[digest] += 1
        self._flying += 1
        self.most[0] = max(self.most[0], self._flying)
        try:
            await asyncio.sleep(self._seconds)
            if self._play is not None and action == "ok":
                action = f"text {self._play(body['messages'])}"
            return await self._act(request, action, body)
        finally:
            self._flying -= 1

    async def _act(self, request: web.Request, action: str, body: dict[str, Any]) -> web.StreamResponse:
        if action in ("drop", "silent", "stall", "slow", "truncated"):
            return await self._break(request, action, json.dumps(_completion(body)).encode())
        if action.split()[0].isdigit():
            return _refuse(action)
        if action == "redirect":
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        if action == "html":
            return web.Response(text="<p>All well.</p>", content_type="text/html")
        if action == "huge":
            return web.Response(body=b" " * 2**20)
        if action == "echo":
            sent = request.headers.get("Authorization", "")
            return web.json_response({"error": {"message": f"{'bad ' * 45}{sent} is unknown"}}, status=401)
        found = {"no choices": {"choices": []}, "list": [1]}.get(action)
        return web.json_response(_completion(body, action) if found is None else found)

    async def _break(self, request: web.Request, action: str, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(content)
        if action == "silent":
            await self.end.wait()
        if action in ("stall", "slow", "truncated"):
            await response.prepare(request)
            await response.write(content[:20])
        if action == "slow":
            for place in range(20, len(content), 20):
                await asyncio.sleep(0.02)
                await response.write(content[place : place + 20])
            return response
        if action == "stall":
            await self.end.wait()
        if request.transport is not None:
            request.transport.close()
        return response


def _refuse(action: str) -> web.Response:
    status, *after = action.split()
    headers = {}
    if after[:1] == ["date"]:
        headers["Retry-After"] = formatdate(time.time() + float(after[1]), usegmt=True)
    elif after:
        headers["Retry-After"] = after[0]
    return web.json_response({"error": {"message": "not now"}}, status=int(status), headers=headers)


def _completion(body: dict[str, Any], action: str = "ok") -> dict[str, Any]:
    texts = {"empty": None, "refusal": None, "surrogate": "a \ud800 b"}
    text = texts.get(action, f"reply to {body['messages'][-1]['content']}")
    if action.startswith("text "):
        text = action.removeprefix("text ")
    message = {"role": "assistant", "content": text}
    if action == "refusal":
        message["refusal"] = "I would rather not."
    finish = {"filter": "content_filter", "length": "length"}.get(action, "stop")
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
