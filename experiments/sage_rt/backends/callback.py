"""A user's own Python function as a backend; what it raises becomes a reply: one fault ends no run."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from diffax import checks
from experiments.sage_rt.backends.base import Reply, Request

Function = Callable[[Request], str | Reply] | Callable[[Request], Awaitable[str | Reply]]

_LONGEST = 200  # characters of a reason


class CallbackBackend:
    """Answers with ``function(request)``: a coroutine function is awaited, any other runs in a thread."""

    def __init__(self, function: Function, name: str, concurrency: int) -> None:
        checks.require(callable(function), "function", function, "a function")
        checks.require(bool(name), "name", name, "a name")
        checks.require(concurrency >= 1, "concurrency", concurrency, "1 or more")
        self.name, self.concurrency = name, concurrency
        self._function = function
        self._room = asyncio.Semaphore(concurrency)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="callback")

    async def reply(self, request: Request) -> Reply:
        """What the function gives."""
        async with self._room:
            begun = time.monotonic()
            try:
                reply = _as_reply(await self._call(request))
            except Exception as error:
                reply = Reply("error", reason=_reason(error))
            return reply._replace(seconds=time.monotonic() - begun)

    async def close(self) -> None:
        """Let the threads go; one that runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, request: Request) -> object:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(request)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _guarded, self._function, request)
        return await found if inspect.isawaitable(found) else found


def _guarded(function: Function, request: Request) -> object:
    """A StopIteration cannot leave a thread: who waits for it would wait for ever."""
    try:
        return function(request)
    except Exception as error:
        return Reply("error", reason=_reason(error))


def _as_reply(found: object) -> Reply:
    if isinstance(found, Reply):
        return found
    checks.require(isinstance(found, str), "reply", type(found).__name__, "a text or a Reply")
    return Reply("ok" if found else "empty", str(found))


def _reason(error: Exception) -> str:
    """The type and the first line, no traceback: that may hold the request."""
    lines = str(error).splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])[:_LONGEST]
