"""A chat-completions server in a thread that plays Toyland's generator, and counts what it is asked.

with toy_endpoint(seconds=0.01) as server:
    server.url, server.asked
"""

import asyncio
import contextlib
import threading
from collections import Counter
from typing import Any

from aiohttp import web

from experiments.sage_rt import toymodels
from experiments.sage_rt.backends.base import Message, Request


class ToyEndpoint:
    """``asked``: how often each request came; ``keys``: the headers that came with them."""

    def __init__(self, seconds: float) -> None:
        self.url, self.asked, self.keys = "", Counter(), set()
        self.seconds = seconds
        self.loop = asyncio.new_event_loop()

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked[str(body["messages"])] += 1
        self.keys.add(request.headers.get("Authorization", ""))
        await asyncio.sleep(self.seconds)
        text = self.text_of(body)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    def text_of(self, body: dict[str, Any]) -> str:
        messages = tuple(Message(**turn) for turn in body["messages"])
        return toymodels.generator(Request(str(body["seed"]), messages))

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner


@contextlib.contextmanager
def toy_endpoint(seconds=0.0, kind=ToyEndpoint):
    """The server, while the block runs."""
    server = kind(seconds)
    thread = threading.Thread(target=server.loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(server.start(), server.loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), server.loop).result(10)
        server.loop.call_soon_threadsafe(server.loop.stop)
        thread.join(10)
        server.loop.close()
