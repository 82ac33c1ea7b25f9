"""Slots to an endpoint: in order, fewer when it asks for it, held through pauses, none once all failed."""

import asyncio

import pytest

from experiments.sage_rt.limiter import Broken, Limiter


class Clock:
    """Stands still until it is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(limiter, gate, order=None, number=0):
    async with limiter.slot():
        if order is not None:
            order.append(number)
        await gate.wait()


def test_no_more_than_the_limit_and_in_order():
    async def run():
        limiter, gate, order = Limiter(2, 4), asyncio.Event(), []
        tasks = [asyncio.create_task(hold(limiter, gate, order, n)) for n in range(6)]
        await settle()
        assert (order, limiter.active, limiter.waiting) == ([0, 1], 2, 4)
        gate.set()
        await asyncio.gather(*tasks)
        assert (order, limiter.active) == (list(range(6)), 0)

    asyncio.run(run())


def test_one_cut_for_a_burst():
    limiter = Limiter(16, 16)

    async def run():
        tickets = [await limiter.take() for _ in range(16)]
        for ticket in tickets:
            limiter.throttled(ticket)
        assert limiter.limit == 12
        for _ in tickets:
            limiter.give()
        limiter.throttled(await limiter.take())
        assert limiter.limit == 9

    asyncio.run(run())


def test_the_floor_is_one():
    async def run():
        limiter = Limiter(3, 3)
        for _ in range(5):
            async with limiter.slot() as ticket:
                limiter.throttled(ticket)
        assert limiter.limit == 1

    asyncio.run(run())


def test_one_more_after_each_25_successes_up_to_the_most():
    limiter = Limiter(1, 3)
    seen = []
    for _ in range(100):
        limiter.succeeded()
        seen.append(limiter.limit)
    assert (seen[23], seen[24], seen[49], seen[99]) == (1, 2, 3, 3)


def test_a_raised_limit_lets_those_that_wait_in():
    async def run():
        limiter, gate = Limiter(1, 2), asyncio.Event()
        tasks = [asyncio.create_task(hold(limiter, gate)) for _ in range(2)]
        await settle()
        for _ in range(25):
            limiter.succeeded()
        await settle()
        assert limiter.active == 2
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_pauses_hold_what_is_new():
    async def run():
        clock, gate = Clock(), asyncio.Event()
        limiter = Limiter(4, 4, clock=clock)
        first = asyncio.create_task(hold(limiter, gate))
        await settle()
        limiter.pause(0.02)
        limiter.pause(0.01)
        second = asyncio.create_task(hold(limiter, gate))
        await asyncio.sleep(0.05)
        assert (limiter.active, limiter.waiting) == (1, 1)
        clock.now = 0.019
        await asyncio.sleep(0.05)
        assert limiter.active == 1
        clock.now = 0.02
        await asyncio.sleep(0.05)
        assert limiter.active == 2
        gate.set()
        await asyncio.gather(first, second)

    asyncio.run(run())


def test_who_is_cancelled_takes_no_slot():
    async def run():
        limiter, gate = Limiter(1, 1), asyncio.Event()
        first = asyncio.create_task(hold(limiter, gate))
        await settle()
        waits, turn = (asyncio.create_task(hold(limiter, gate)) for _ in range(2))
        await settle()
        waits.cancel()
        await settle()
        gate.set()
        await first
        turn.cancel()  # its turn has come, but it has not run since
        await asyncio.gather(waits, turn, return_exceptions=True)
        assert (limiter.active, limiter.waiting) == (0, 0)

    asyncio.run(run())


def test_the_breaker_fails_those_that_wait_and_those_to_come():
    async def run():
        limiter, gate = Limiter(1, 1, breaker=3), asyncio.Event()
        first = asyncio.create_task(hold(limiter, gate))
        await settle()
        second = asyncio.create_task(hold(limiter, gate))
        await settle()
        for _ in range(2):
            limiter.denied("401")
        limiter.succeeded()
        for _ in range(2):
            limiter.denied("401")
        await settle()
        assert not second.done()
        limiter.denied("403")
        with pytest.raises(Broken, match=r"3 failures in a row, nothing more is sent: 403"):
            await second
        with pytest.raises(Broken):
            await limiter.take()
        gate.set()
        await first
        assert limiter.active == 0

    asyncio.run(run())


@pytest.mark.parametrize(("start", "most"), [(0, 1), (3, 2), (1, 0)])
def test_bad_limits(start, most):
    with pytest.raises(ValueError, match="allowed"):
        Limiter(start, most)
