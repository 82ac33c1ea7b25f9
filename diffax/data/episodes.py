"""Episodes of observations and actions, and the windows that policies learn from.

Episodes lie one after another in flat arrays, ``ends`` says where each stops. A window is what was observed
up to one step and the actions from that step on: it never crosses an episode. Before an episode begins its
first observation stands, after it ends its last action, which a mask takes out of the loss.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from diffax.checks import require
from diffax.data.source import Item, SourceSpec


class Episodes(NamedTuple):
    """``steps``: arrays by name, a row each step, "action" among them; ``ends``: one past each episode's last
    step, increasing; ``task``: of each episode."""

    steps: Mapping[str, Shaped[np.ndarray, "n ..."]]
    ends: Int[np.ndarray, "e"]
    task: Int[np.ndarray, "e"]


def check_episodes(episodes: Episodes, where: str = "episodes", shortest: int = 1) -> Episodes:
    """Raise ``ValueError``, naming ``where``, the field and the episode, for what no policy can learn from.

    Rows that do not add up, episodes of fewer than ``shortest`` steps, numbers that are not finite.
    """
    require("action" in episodes.steps, where, sorted(episodes.steps), "fields with 'action' among them")
    ends, rows = episodes.ends, {name: len(values) for name, values in episodes.steps.items()}
    require(len(ends) > 0, f"{where}.ends", len(ends), "one episode or more")
    require(
        set(rows.values()) == {int(ends[-1])}, f"{where}: rows", rows, f"{int(ends[-1])}, the last of ends"
    )
    require(len(episodes.task) == len(ends), f"{where}.task", len(episodes.task), f"{len(ends)} episodes")
    lengths = np.diff(ends, prepend=0)
    short = int(np.argmin(lengths))
    allowed = f"{shortest} steps or more in every episode"
    require(bool(lengths[short] >= shortest), f"{where}: episode {short}", int(lengths[short]), allowed)
    for name, values in episodes.steps.items():
        if values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            at = (
                f"{where}[{name!r}]: episode {int(np.searchsorted(ends, bad[0], 'right'))}"
                if bad.size
                else ""
            )
            require(bad.size == 0, at, "NaN or infinity", "finite numbers")
    return episodes


def join(parts: Sequence[Episodes]) -> Episodes:
    """Several collections with the same fields, one after another."""
    names = parts[0].steps
    steps = {name: np.concatenate([part.steps[name] for part in parts]) for name in names}
    offsets = np.cumsum([0, *(int(part.ends[-1]) for part in parts[:-1])])
    ends = np.concatenate([part.ends + offset for part, offset in zip(parts, offsets, strict=True)])
    return Episodes(steps, ends, np.concatenate([part.task for part in parts]))


def take(episodes: Episodes, chosen: Int[np.ndarray, "k"]) -> Episodes:
    """Some of the episodes, in the given order."""
    starts = np.concatenate([[0], episodes.ends[:-1]])
    rows = np.concatenate([np.arange(starts[e], episodes.ends[e]) for e in chosen])
    lengths = (episodes.ends - starts)[chosen]
    steps = {name: values[rows] for name, values in episodes.steps.items()}
    return Episodes(steps, np.cumsum(lengths), episodes.task[chosen])


class Windows:
    """A source with an item for each step: what was seen, the next ``horizon`` actions, and which are real.

    Items hold every field but "action" as (history, ...), "action" as (horizon, a), "mask" as (horizon,), 1
    where the episode still ran, and "task". Raises ValueError for episodes that :func:`check_episodes`
    refuses.
    """

    def __init__(self, episodes: Episodes, horizon: int, history: int = 1) -> None:
        require(horizon >= 1, "horizon", horizon, "an integer >= 1")
        require(history >= 1, "history", history, "an integer >= 1")
        self.episodes, self.horizon, self.history = check_episodes(episodes), horizon, history
        starts = np.concatenate([[0], episodes.ends[:-1]])
        self._episode = np.repeat(np.arange(len(episodes.ends)), episodes.ends - starts)
        self._starts = starts

    def __len__(self) -> int:
        return len(self._episode)

    def __getitem__(self, index: int) -> Item:
        episode = self._episode[index]
        first, last = self._starts[episode], self.episodes.ends[episode] - 1
        past = np.maximum(np.arange(index - self.history + 1, index + 1), first)
        future = np.arange(index, index + self.horizon)
        steps = self.episodes.steps
        item = {name: values[past] for name, values in steps.items() if name != "action"}
        item["action"] = steps["action"][np.minimum(future, last)]
        item["mask"] = (future <= last).astype(np.float32)
        item["task"] = self.episodes.task[episode].astype(np.int32)
        return item

    @property
    def spec(self) -> SourceSpec:
        """Shapes and types of an item's fields."""
        item = self[0]
        return SourceSpec({k: v.shape for k, v in item.items()}, {k: v.dtype for k, v in item.items()})


class Normaliser(NamedTuple):
    """``(values - shift) / scale`` along the last axis; a pytree, kept with a policy's parameters."""

    shift: Float[Array | np.ndarray, "d"]
    scale: Float[Array | np.ndarray, "d"]

    def __call__(self, values: Float[Array | np.ndarray, "*b d"]) -> Float[Array | np.ndarray, "*b d"]:
        """To the network's units."""
        return (values - self.shift) / self.scale

    def undo(self, values: Float[Array | np.ndarray, "*b d"]) -> Float[Array | np.ndarray, "*b d"]:
        """Back to the data's units."""
        return values * self.scale + self.shift


NORMALISERS = ("mean_std", "min_max", "quantiles", "identity")


def fit_normaliser(values: Float[np.ndarray, "n d"], kind: str = "mean_std") -> Normaliser:
    """To mean 0 and deviation 1 ("mean_std"), or to [-1, 1] from the ends ("min_max") or the 1st and 99th
    percentiles ("quantiles").

    Numbers that never change keep their scale. Raises ValueError for another kind.
    """
    require(kind in NORMALISERS, "normaliser", kind, "one of " + ", ".join(NORMALISERS))
    values = np.asarray(values, np.float64)
    if kind == "identity":
        shift, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    elif kind == "mean_std":
        shift, scale = values.mean(axis=0), values.std(axis=0)
    else:
        ends = (0.0, 1.0) if kind == "min_max" else (0.01, 0.99)
        low, high = np.quantile(values, ends, axis=0)
        shift, scale = (low + high) / 2, (high - low) / 2
    still = scale < 1e-6 * np.maximum(1.0, np.abs(shift))
    return Normaliser(shift.astype(np.float32), np.where(still, 1.0, scale).astype(np.float32))
