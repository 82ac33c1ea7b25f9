"""Replies by a function of the request: for tests, dry runs and examples."""

import asyncio
from collections.abc import Callable

from diffax import checks
from experiments.sage_rt.backends.base import Reply, Request


class ScriptedBackend:
    """Answers with ``function(request)``, which is pure: a text ("" is an empty reply) or a whole reply.

    ``seconds`` is how long each takes.
    """

    def __init__(
        self,
        function: Callable[[Request], str | Reply],
        name: str = "scripted",
        concurrency: int = 64,
        seconds: float = 0.0,
    ) -> None:
        checks.require(bool(name), "name", name, "a name")
        checks.require(concurrency >= 1, "concurrency", concurrency, "1 or more")
        self.name, self.concurrency = name, concurrency
        self._function, self._seconds = function, seconds

    async def reply(self, request: Request) -> Reply:
        """What the script says."""
        await asyncio.sleep(self._seconds)
        found = self._function(request)
        return found if isinstance(found, Reply) else Reply("ok" if found else "empty", found)

    async def close(self) -> None:
        """There is nothing to give back."""
