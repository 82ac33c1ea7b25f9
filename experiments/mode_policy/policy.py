"""A trained policy in use: what is seen goes in, actions come out.

policy = load_policy("runs/mt10")
policy.reset(seed=0)
actions = policy.infer({"state": seen, "task": "door-open"}).actions     # (horizon, numbers)
chunker = ActionChunker(policy, execute=5)
action = chunker({"state": seen, "task": "door-open"})                   # one at a time
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from diffax import checks
from experiments.mode_policy.suite import Facts

# f(seeds (n,), {"state": (n, h, o), "images": {camera: (n, h, y, x, 3)}}, task (n,)) -> actions (n, t, a)
Run = Callable[[Any, Any, Any], Any]
CHUNKING = ("open_loop", "receding_horizon", "temporal_ensemble")
_MOST = 4096  # observations of a batch


class About(NamedTuple):
    """``tasks`` by name; ``history`` steps of ``state`` numbers are seen, ``horizon`` actions of ``action``
    numbers come out; ``images``: each camera's shape of a step, (h, w, 3)."""

    tasks: tuple[str, ...]
    history: int
    state: int
    horizon: int
    action: int
    images: Mapping[str, tuple[int, ...]] = MappingProxyType({})


class Answer(NamedTuple):
    """Actions in the units of the demonstrations, and how long they took."""

    actions: Float[np.ndarray, "*n t a"]
    seconds: float


class Policy:
    """Checks what it is given; draws follow from the seed and the number of answers since ``reset``."""

    def __init__(self, run: Run, about: About) -> None:
        self._run, self.about = run, about
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Begin anew: the same seed gives the same answers."""
        checks.require(0 <= seed < 2**31, "seed", seed, "0 .. 2^31 - 1")
        self._seed, self._count = seed, 0

    def infer(self, observation: Mapping[str, Any]) -> Answer:
        """Actions for one observation: ``"state"``, float32 (history, state), or (state,) where one step is
        seen, ``"task"``, a name or a number, and of a policy with cameras ``"images"``, each camera's bytes
        (history, h, w, 3), or (h, w, 3). Raises ValueError that names the field."""
        answer = self.infer_batch([observation])
        return Answer(answer.actions[0], answer.seconds)

    def infer_batch(self, observations: Sequence[Mapping[str, Any]], seeds: Sequence[int] = ()) -> Answer:
        """Actions (n, horizon, action) for n observations; each depends on its own and its seed alone."""
        begun, count = time.perf_counter(), len(observations)
        seen, tasks = self.check_batch(observations)
        checks.require(len(seeds) in (0, count), "seeds", len(seeds), f"{count}, one each, or none")
        draws = np.array(seeds or [self._next() for _ in observations], np.uint32)
        size = 1 << (count - 1).bit_length()  # few sizes, so that few programs are compiled
        rows = np.arange(size) % count
        chosen = jax.tree.map(lambda values: values[rows], seen)
        actions = np.asarray(jax.device_get(self._run(draws[rows], chosen, tasks[rows])))[:count]
        return Answer(actions, time.perf_counter() - begun)

    def check_batch(
        self, observations: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], Int[np.ndarray, "n"]]:
        """What is seen and numbers of tasks, as the network reads them; ValueError for what it cannot."""
        count = len(observations)
        checks.require(1 <= count <= _MOST, "observations", count, f"1 to {_MOST}")
        each = [read_seen(self.about, observation) for observation in observations]
        seen = jax.tree.map(lambda *values: np.stack(values), *each)
        return seen, np.array([self._task(each) for each in observations], np.int32)

    def _next(self) -> int:
        self._count += 1
        return int(np.random.SeedSequence([self._seed, self._count]).generate_state(1)[0])

    def _task(self, observation: Mapping[str, Any]) -> int:
        checks.require("task" in observation, "observation", sorted(observation), "'state' and 'task'")
        task, names = observation["task"], self.about.tasks
        if isinstance(task, str):
            checks.require_one_of("task", task, names)
            return names.index(task)
        whole = isinstance(task, (int, np.integer)) and not isinstance(task, bool)
        number = whole and 0 <= task < len(names)
        checks.require(bool(number), "task", task, f"0 .. {len(names) - 1}, or a name")
        return int(task)


class ActionChunker:
    """One action at a time from a policy that answers with chunks.

    * ``"open_loop"``: all of a chunk, then the next.
    * ``"receding_horizon"``: the first ``execute`` of a chunk.
    * ``"temporal_ensemble"``: a chunk at every step; what all of them say of this step, averaged with weights
      ``exp(-decay i)``, i from the oldest on (Zhao et al. 2023, arXiv:2304.13705, algorithm 2).

    Keeps the last steps that were seen, where the policy looks at several.
    """

    def __init__(
        self, policy: Policy, mode: str = "receding_horizon", execute: int | None = None, decay: float = 0.01
    ) -> None:
        checks.require_one_of("mode", mode, CHUNKING)
        horizon = policy.about.horizon
        whole = {"open_loop": horizon, "receding_horizon": max(1, horizon // 2), "temporal_ensemble": 1}[mode]
        execute = whole if execute is None else execute
        fits = 1 <= execute <= horizon and (mode == "receding_horizon" or execute == whole)
        allowed = f"1 .. {horizon}" if mode == "receding_horizon" else f"{whole}, or none"
        checks.require(fits, "execute", execute, allowed)
        checks.require(decay >= 0, "decay", decay, "a number >= 0")
        self._policy, self._mode, self._execute, self._decay = policy, mode, execute, decay
        self._past: deque[Any] = deque(maxlen=policy.about.history)
        self._chunks: deque[Any] = deque(maxlen=horizon)
        self._left: deque[Any] = deque()

    def reset(self, seed: int = 0) -> None:
        """A new episode: nothing that was seen or planned is kept."""
        self._policy.reset(seed)
        for kept in (self._past, self._chunks, self._left):
            kept.clear()

    def __call__(self, observation: Mapping[str, Any]) -> Float[np.ndarray, "a"]:
        """The next action; ``"state"`` is that of one step, (state,), and images are (h, w, 3)."""
        self._see(observation)
        if self._mode == "temporal_ensemble":
            self._chunks.append(self._answer(observation))
            return ensemble(list(self._chunks), self._decay)
        if not self._left:
            self._left.extend(self._answer(observation)[: self._execute])
        return self._left.popleft()

    def _see(self, observation: Mapping[str, Any]) -> None:
        about = self._policy.about
        self._past.append(read_seen(about._replace(history=1), observation))
        while len(self._past) < about.history:
            self._past.append(self._past[-1])

    def _answer(self, observation: Mapping[str, Any]) -> Float[np.ndarray, "t a"]:
        seen = jax.tree.map(lambda *steps: np.concatenate(steps), *self._past)
        return self._policy.infer({**observation, **seen}).actions


def read_seen(about: About, observation: Mapping[str, Any]) -> dict[str, Any]:
    """State (history, o) and images (history, h, w, 3) of an observation, whose axis of steps may be missing
    where one is seen; ValueError that names the field for what is missing, left over or of another kind."""
    checks.require("state" in observation, "observation", sorted(observation), "'state' and 'task'")
    state = np.asarray(observation["state"])
    checks.require(state.dtype == np.float32, "state: type", str(state.dtype), "float32")
    state = _with_steps(about, "state", state, (about.state,))
    checks.require(bool(np.isfinite(state).all()), "state", "NaN or infinity", "finite numbers")
    given = observation.get("images", {})
    names = sorted(given) if isinstance(given, Mapping) else type(given).__name__
    allowed = "a mapping of " + (", ".join(sorted(about.images)) or "nothing")
    checks.require(names == sorted(about.images), "observation['images']", names, allowed)
    images = {}
    for name, shape in about.images.items():
        values, label = np.asarray(given[name]), f"images[{name!r}]"
        checks.require(values.dtype == np.uint8, f"{label}: type", str(values.dtype), "uint8")
        images[name] = _with_steps(about, label, values, tuple(shape))
    return {"state": state, "images": images}


def _with_steps(about: About, label: str, given: Any, shape: tuple[int, ...]) -> Any:
    whole = (about.history, *shape)
    shapes = (whole, shape) if about.history == 1 else (whole,)
    checks.require(given.shape in shapes, f"{label}: shape", given.shape, " or ".join(map(str, shapes)))
    return given.reshape(whole)


def ensemble(chunks: Sequence[Float[np.ndarray, "t a"]], decay: float) -> Float[np.ndarray, "a"]:
    """The newest chunk's first action, the second of the one before, and so on, averaged; oldest first."""
    planned = np.stack([chunk[len(chunks) - 1 - i] for i, chunk in enumerate(chunks)])
    weights = np.exp(-decay * np.arange(len(chunks)))
    return (weights[:, None] * planned).sum(axis=0) / weights.sum()


def about_of(config: ConfigDict, facts: Facts) -> About:
    """The shapes of a configuration's policies."""
    state, action = facts.widths
    return About(facts.tasks, config.data.history, state, config.data.horizon, action, dict(facts.images))
