"""Simulated episodes in processes of their own: a policy answers for all of them together.

A slot is a simulator that runs episodes of one task, one after the other, until its share is done. All slots
stop for the policy at the same time: it sees what each of them sees and answers with chunks of actions, of
which every slot runs the first ones by itself. So a batch keeps its size, the network is called once for all,
and simulators never wait for each other but at chunks. What an episode is follows from its task, number and
seed, not from the processes or from what else runs.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from diffax import checks


class Simulator(Protocol):
    """One task; an episode is known by its seed."""

    def reset(self, seed: int) -> Float[np.ndarray, "o"]:
        """Begin an episode; what is seen first."""
        ...

    def step(self, action: Float[np.ndarray, "a"]) -> tuple[Float[np.ndarray, "o"], bool]:
        """What is seen next, and whether the task is done."""
        ...

    def expert(self) -> Float[np.ndarray, "a"]:
        """What the task's own script would do now."""
        ...

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of now."""
        ...


MakeSimulator = Callable[[str], Simulator]  # of a task's name; pickled to the processes
# act(seeds (n,), seen (n, h, o), task (n,)) -> actions (n, t, a); a row depends on its own inputs alone
Act = Callable[[Any, Any, Any], Any]


class Outcome(NamedTuple):
    """How an episode went; ``steps`` it took; ``frames``: pictures, where it was filmed."""

    task: str
    index: int
    success: bool
    steps: int
    frames: tuple[UInt8[np.ndarray, "h w 3"], ...] = ()


class Protocols(NamedTuple):
    """How episodes are run: ``steps`` after which one has failed, ``execute`` actions of an answer,
    ``history`` steps that are seen; of each task ``film`` episodes are filmed, a picture each ``every``
    steps."""

    steps: int = 500
    execute: int = 10
    history: int = 1
    film: int = 0
    every: int = 4


class _Slot:
    """Episodes of one task that one simulator runs, as the policy's side keeps them."""

    def __init__(self, task: str, number: int, indices: Sequence[int]) -> None:
        self.task, self.number, self.left = task, number, list(indices)
        self.index, self.done, self.chunk = -1, 0, 0
        self.past: list[Any] = []
        self.frames: list[Any] = []

    def see(self, observations: Sequence[Any], history: int) -> None:
        """Keep the last of what was seen; before the first stands the first."""
        self.past = [*self.past, *observations]
        self.past = [self.past[0]] * (history - len(self.past)) + self.past[-history:]


def episode_seed(seed: int, task: str, index: int) -> int:
    """Of an episode, from the run's seed, the task's name and the number; different for different ones."""
    words = [seed, index, *task.encode()]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def run_episodes(
    act: Act | None,
    make: MakeSimulator,
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    protocol: Protocols,
    numbers: Sequence[int] | None = None,
    processes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """``episodes`` of each task, in the order of tasks and numbers.

    Without ``act`` the simulators' experts act. ``numbers``: the task's numbers that ``act`` is told, by
    default 0, 1, ...; ``processes``: 0 for one a core. Raises ``OSError`` where a process ends, and whatever
    ``make`` raises.
    """
    checks.require(episodes >= 1, "episodes", episodes, "an integer >= 1")
    slots = _slots(tasks, numbers or range(len(tasks)), episodes, processes or os.cpu_count() or 1)
    count = min(processes or os.cpu_count() or 1, len(slots))
    outcomes: list[Outcome] = []
    with _workers(make, [[s.task for s in slots[i::count]] for i in range(count)]) as workers:
        while any(slot.index >= 0 or slot.left for slot in slots):
            orders = _orders(act, slots, seed, protocol)
            for place, reply in _exchange(workers, orders):
                found = _take(slots[place], reply, protocol)
                outcomes += [found] if found else []
            if progress:
                progress(len(outcomes), episodes * len(tasks))
    return sorted(outcomes, key=lambda o: (list(tasks).index(o.task), o.index))


def _slots(tasks: Sequence[str], numbers: Sequence[int], episodes: int, processes: int) -> list[_Slot]:
    """One a task, or several where there are fewer tasks than would keep the processes busy."""
    ways = min(episodes, -(-2 * processes // len(tasks)))
    return [
        _Slot(task, number, range(way, episodes, ways))
        for way in range(ways)
        for task, number in zip(tasks, numbers, strict=True)
    ]


def _orders(
    act: Act | None, slots: Sequence[_Slot], seed: int, protocol: Protocols
) -> dict[int, tuple[Any, ...]]:
    """What each slot does next: begin an episode, or run some actions."""
    orders: dict[int, tuple[Any, ...]] = {}
    running = [place for place, slot in enumerate(slots) if slot.index >= 0]
    answers = _answers(act, slots, running[0], seed) if act and running else None
    for place, slot in enumerate(slots):
        if slot.index >= 0:
            count = min(protocol.execute, protocol.steps - slot.done)
            some = [None] * count if answers is None else list(answers[place][:count])
            orders[place] = ("run", some, protocol.every if slot.index < protocol.film else 0)
        elif slot.left:
            slot.index, slot.done, slot.chunk, slot.past, slot.frames = slot.left.pop(0), 0, 0, [], []
            orders[place] = ("reset", episode_seed(seed, slot.task, slot.index))
    return orders


def _answers(act: Act, slots: Sequence[_Slot], known: int, seed: int) -> Float[np.ndarray, "n t a"]:
    """Chunks for all slots; those that are over see what a running one sees, and are not heard."""
    seen = np.stack([slot.past if slot.index >= 0 else slots[known].past for slot in slots])
    draws = [episode_seed(seed + 1 + slot.chunk, slot.task, max(0, slot.index)) for slot in slots]
    numbers = np.array([slot.number for slot in slots], np.int32)
    return np.asarray(act(np.array(draws, np.uint32), seen.astype(np.float32), numbers))


def _take(slot: _Slot, reply: tuple[Any, ...], protocol: Protocols) -> Outcome | None:
    """What a slot's simulator said; the outcome where the episode is over."""
    observations, success, frames = reply
    if not slot.past:
        slot.see(observations, protocol.history)
        return None
    slot.see(observations, protocol.history)
    slot.done, slot.chunk = slot.done + len(observations), slot.chunk + 1
    slot.frames += frames
    if not success and slot.done < protocol.steps:
        return None
    outcome = Outcome(slot.task, slot.index, success, slot.done, tuple(slot.frames))
    slot.index = -1
    return outcome


# -- processes ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workers(make: MakeSimulator, shares: Sequence[Sequence[str]]) -> Iterator[list[Connection]]:
    """A process for each share of slots; place i of all slots is the i // count-th of share i % count."""
    context = multiprocessing.get_context("spawn")  # threads of JAX do not survive a fork
    ends, processes = [], []
    try:
        for tasks in shares:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make, tasks), daemon=True)
            process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
        yield ends
    finally:
        for end in ends:
            end.close()  # the process sees the end of its input, and ends
        for process in processes:
            process.join(timeout=5)
            process.terminate()


def _exchange(
    workers: Sequence[Connection], orders: dict[int, tuple[Any, ...]]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Send every worker its slots' orders at once, then collect the replies."""
    count = len(workers)
    mine = [{place // count: o for place, o in orders.items() if place % count == i} for i in range(count)]
    try:
        for worker, some in zip(workers, mine, strict=True):
            worker.send(some)
        for i, worker in enumerate(workers):
            replies = worker.recv()
            if isinstance(replies, Exception):
                raise replies
            yield from ((local * count + i, reply) for local, reply in replies.items())
    except (EOFError, ConnectionError) as error:
        raise OSError("a simulator's process ended before its episodes did") from error


def _work(connection: Connection, make: MakeSimulator, tasks: Sequence[str]) -> None:
    """A process: simulators by their place, made when first needed; orders come, replies go."""
    simulators: dict[int, Simulator] = {}
    with contextlib.suppress(EOFError, KeyboardInterrupt, ConnectionError):
        while True:
            orders = connection.recv()
            try:
                for place in orders:
                    if place not in simulators:
                        simulators[place] = make(tasks[place])
                connection.send({place: _do(simulators[place], order) for place, order in orders.items()})
            except (ValueError, ImportError) as error:
                connection.send(error)


def _do(simulator: Simulator, order: tuple[Any, ...]) -> tuple[list[Any], bool, list[Any]]:
    """Observations, whether the task is done, and pictures."""
    if order[0] == "reset":
        return [simulator.reset(order[1])], False, []
    _, actions, every = order
    seen: list[Shaped[np.ndarray, "o"]] = []
    frames: list[UInt8[np.ndarray, "h w 3"]] = []
    for count, action in enumerate(actions):
        if every and count % every == 0:
            frames.append(simulator.render())
        observation, success = simulator.step(simulator.expert() if action is None else action)
        seen.append(observation)
        if success:
            return seen, True, [*frames, simulator.render()] if every else frames
    return seen, False, frames
