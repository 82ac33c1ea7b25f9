"""The suite of a user's own demonstrations: held-out episodes say how far actions are off."""

import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped
from ml_collections import ConfigDict

from diffax import checks
from diffax.data.episode_files import read_demonstrations
from diffax.data.episodes import Episodes, Windows, take
from diffax.evaluation import Figure
from diffax.io import write_atomically
from diffax.models.film_resnet import SMALLEST
from diffax.training.state import count_params
from experiments.figures import as_rows
from experiments.mode_policy.method import Trained, answers, look
from experiments.mode_policy.suite import Facts, Suite

RESERVED = ("state", "action", "mask", "task")  # fields of a window
_BATCH = 64


def open_recorded(config: ConfigDict) -> Suite:
    """The suite of ``config.data.file``, in any layout that :func:`diffax.data.read_demonstrations` knows.

    ``config.data.fields`` are what is seen, put together into one vector; "state" where none is named.
    """
    asked, cameras = tuple(config.data.fields) or ("state",), tuple(config.data.images)
    found = read_demonstrations(config.data.file, (*asked, *cameras))
    episodes = join_fields(found.episodes, asked, cameras)
    training, held_out = split(episodes, config.data.holdout)
    widths = (episodes.steps["state"].shape[1], episodes.steps["action"].shape[1])
    images = {name: episodes.steps[name].shape[1:] for name in cameras}
    programs = lambda: training, partial(evaluate, held_out), partial(draw, held_out)
    return Suite(Facts(found.tasks, found.tasks, widths, images), *programs)


def join_fields(episodes: Episodes, names: tuple[str, ...], cameras: tuple[str, ...] = ()) -> Episodes:
    """Vectors of several names as one, "state"; images stay as they are."""
    columns = [np.atleast_2d(episodes.steps[n].T).T.astype(np.float32) for n in names]
    for name, values in zip(names, columns, strict=True):
        checks.require(values.ndim == 2, f"config.data.fields: {name}", values.shape, "a vector each step")
    steps = {"state": np.concatenate(columns, axis=1), "action": episodes.steps["action"]}
    for name in cameras:
        values, label = episodes.steps[name], f"config.data.images: {name}"
        fits = values.dtype == np.uint8 and values.ndim == 4 and values.shape[-1] == 3
        allowed = f"bytes (steps, h, w, 3), h and w of {SMALLEST} or more"
        found = (values.dtype.name, values.shape)
        checks.require(fits and min(values.shape[1:3]) >= SMALLEST, label, found, allowed)
        checks.require(name not in RESERVED, label, name, "none of " + ", ".join(RESERVED))
    return episodes._replace(steps=steps | {name: episodes.steps[name] for name in cameras})


def split(episodes: Episodes, holdout: float) -> tuple[Episodes, Episodes]:
    """Episodes to learn from, and others, a share of each task: the same at every call."""
    checks.require(0 < holdout < 1, "config.data.holdout", holdout, "a number in (0, 1)")
    order = np.array([zlib.crc32(f"episode {i}".encode()) for i in range(len(episodes.ends))])
    chosen = np.zeros(len(order), bool)
    for task in np.unique(episodes.task):
        mine = np.flatnonzero(episodes.task == task)
        chosen[mine[np.argsort(order[mine])[: round(holdout * len(mine))]]] = True
    both = 0 < chosen.sum() < len(chosen)
    allowed = f"a share that leaves some of the {len(chosen)} episodes to either side"
    checks.require(bool(both), "config.data.holdout", holdout, allowed)
    return take(episodes, np.flatnonzero(~chosen)), take(episodes, np.flatnonzero(chosen))


def evaluate(held_out: Episodes, trained: Trained, workdir: Path) -> Mapping[str, Any]:
    """Root mean square errors of a chunk's actions, in the data's units and in deviations of the data."""
    data, limit = trained.config.data, trained.config.eval.windows
    windows = Windows(held_out, data.horizon, data.history)
    rows: Int[np.ndarray, "n"] = np.unique(np.linspace(0, len(windows) - 1, limit).astype(int))
    scale = held_out.steps["action"].std()
    figures, table = list[Figure](), dict[str, dict[str, float]]()
    for name in trained.recipes:
        error = np.sqrt(np.mean(_squares(windows, rows, trained, name)))
        row = {"action_error": float(error), "relative_error": float(error / scale)}
        prefix = "" if name == "model" else f"{name}/"
        about = {
            "n_fake": len(rows),
            "split": f"held-out episodes ({len(held_out.ends)})",
            "seed": trained.config.seed,
        }
        figures += [Figure(prefix + key, value, **about) for key, value in row.items()]
        table["" if name == "model" else name] = row | {"parameters": float(count_params(trained.nets[name]))}
    return {"figures": figures, "rows": as_rows(table, "model")}


def draw(held_out: Episodes, trained: Trained, workdir: Path) -> None:
    """A chunk of actions for some held-out windows beside what was done, as arrays."""
    data = trained.config.data
    windows = Windows(held_out, data.horizon, data.history)
    rows = np.linspace(0, len(windows) - 1, min(trained.config.sample.n, len(windows))).astype(int)
    actions, truth, _ = _chunks(windows, rows, trained, "model")
    arrays = {"actions": actions, "recorded": truth}
    write_atomically(
        workdir / "samples-actions.npz", lambda temporary: np.savez_compressed(temporary, **arrays)
    )


def _squares(windows: Windows, rows: Any, trained: Trained, name: str) -> Float[np.ndarray, "n"]:
    """Squared errors of actions that were recorded."""
    actions, truth, mask = _chunks(windows, rows, trained, name)
    return ((actions - truth) ** 2)[mask > 0].ravel()


def _chunks(
    windows: Windows, rows: Any, trained: Trained, name: str
) -> tuple[Shaped[np.ndarray, "..."], ...]:
    """Answers, recorded actions and their mask, in batches of one size."""
    act, found = answers(trained, name), []
    items = [windows[int(row)] for row in rows]
    batch = {key: np.stack([item[key] for item in items]) for key in items[0]}
    for begin in range(0, len(rows), _BATCH):
        index = np.arange(begin, begin + _BATCH) % len(rows)
        seeds = index.astype(np.uint32)
        some = {key: values[index] for key, values in batch.items()}
        found.append(jax.device_get(act(seeds, look(trained.recipes[name], some), some["task"])))
    return np.concatenate(found)[: len(rows)], batch["action"], batch["mask"]
