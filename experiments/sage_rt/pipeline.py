"""How a stage's tasks get done: as many requests in flight as the backend bears, each result kept at once."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.progress import Counted
from experiments.sage_rt.backends.base import Backend, Reply, Request
from experiments.sage_rt.store import Store
from experiments.sage_rt.tasks import Task
from experiments.sage_rt.taxonomy import Taxonomy

_LOOK = 0.5  # seconds between looks at what other processes do


class Run(NamedTuple):
    """What every stage needs; ``backends`` of "generator", "aligned", "target", "judge" those in use."""

    config: ConfigDict
    taxonomy: Taxonomy
    store: Store
    backends: dict[str, Backend]


class Stage(NamedTuple):
    """A name, the model that works, how a task becomes a request, and what of the reply is kept."""

    name: str
    role: str
    request: Callable[[Task], Request]
    read: Callable[[Task, Reply], dict[str, Any]]


def work(run: Run, stage: Stage, tasks: Iterable[Task]) -> None:
    """Add the tasks and do all of the stage that is not done; results are there when this returns."""
    run.store.add(tasks)
    if run.store.left(stage.name):
        asyncio.run(_work(run, stage))


async def _work(run: Run, stage: Stage) -> None:
    backend, store = run.backends[stage.role], run.store
    show, total, left = Counted(stage.name), store.size(stage.name), store.left(stage.name)
    flying: set[asyncio.Task[None]] = set()
    done: set[asyncio.Task[None]] = set()
    try:
        while left > 0:
            free = backend.concurrency - len(flying)
            if free * 4 >= backend.concurrency:  # some at a time: a lease is a transaction
                tasks = store.lease(stage.name, free)
                flying |= {asyncio.create_task(_one(run, stage, task)) for task in tasks}
            if flying:
                done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                left -= len([one.result() for one in done])
                show(total - max(left, 0), total)
            else:  # what is left is leased by other processes
                await asyncio.sleep(_LOOK)
                store.release()  # one of them may have died
                left = store.left(stage.name)
    finally:
        for one in flying:
            one.cancel()
        await asyncio.gather(*flying, *done, return_exceptions=True)  # of many faults the first is told
        store.give_back(stage.name)
        with contextlib.suppress(Exception):
            await backend.close()


async def _one(run: Run, stage: Stage, task: Task) -> None:
    reply = await run.backends[stage.role].reply(stage.request(task))
    run.store.finish(task, stage.read(task, reply), reply)
