"""How many requests may be with one endpoint at a time: fewer when it says so, more while all goes well."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from diffax import checks

_CUT = 0.75
_RAISE_AFTER = 25  # successes for one more at a time


class Broken(Exception):
    """The endpoint turned away too many in a row; nothing more is sent to it."""


class Limiter:
    """Slots for requests to one endpoint, given in the order they were asked for (additive increase,
    multiplicative decrease). Errors of the server's own do not count: fewer requests would not mend them.

        async with limiter.slot() as ticket:
            ...  # send; then succeeded(), throttled(ticket) or denied(reason)

    Args:
        start: how many may be in flight at first.
        most: how many at most.
        breaker: denials in a row after which :class:`Broken` is raised for all, now and later.
        clock: seconds, for pauses.
    """

    def __init__(
        self, start: int, most: int, *, breaker: int = 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        checks.require(most >= 1, "most", most, "1 or more")
        checks.require(1 <= start <= most, "start", start, f"1 .. {most}")
        checks.require(breaker >= 1, "breaker", breaker, "1 or more")
        self.limit, self.most, self.active = start, most, 0
        self.reason = ""  # why it is broken
        self._breaker, self._clock = breaker, clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cuts = self._successes = self._denials = 0
        self._until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def slot(self) -> "Slot":
        """A place among those in flight, for an ``async with``."""
        return Slot(self)

    @property
    def waiting(self) -> int:
        """Those that wait for a slot."""
        return sum(not turn.done() for turn in self._waiting)

    def succeeded(self) -> None:
        """A request was answered; after some of these there is one slot more."""
        self._denials = 0
        self._successes += 1
        if self._successes >= _RAISE_AFTER:
            self._successes = 0
            self.limit = min(self.limit + 1, self.most)
            self._wake()

    def throttled(self, ticket: int) -> None:
        """The endpoint said "too many"; from those sent before the last cut that is no news."""
        if ticket == self._cuts:
            self._cuts += 1
            self._successes = 0
            self.limit = max(1, int(self.limit * _CUT))

    def denied(self, reason: str) -> None:
        """The endpoint will not serve us, or nobody is there; after some in a row nothing more is tried."""
        self._denials += 1
        if self._denials < self._breaker or self.reason:
            return
        self.reason = f"{self._denials} failures in a row, nothing more is sent: {reason}"
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Broken(self.reason))

    def pause(self, seconds: float) -> None:
        """Send nothing new for so long; a shorter pause does not end a longer one."""
        self._until = max(self._until, self._clock() + seconds)

    async def take(self) -> int:
        """Wait for a slot; its ticket."""
        if self.reason:
            raise Broken(self.reason)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give()  # it was our turn already
            raise
        return self._cuts

    def give(self) -> None:
        """Give a slot back."""
        self.active -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.active < self.limit:
            if (left := self._until - self._clock()) > 0:
                return self._wake_in(left)
            turn = self._waiting.popleft()
            if not turn.done():  # else who waited was cancelled
                self.active += 1
                turn.set_result(None)
        return None

    def _wake_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._wake()


class Slot:
    """What :meth:`Limiter.slot` gives."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> int:
        return await self._limiter.take()

    async def __aexit__(self, *error: object) -> None:
        self._limiter.give()
