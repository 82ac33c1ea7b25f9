"""What policies do in the navigation suite: figures, and a picture of their ways."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax.evaluation import Figure, wilson_interval
from diffax.io import write_atomically
from diffax.training.state import count_params
from diffax.types import Keys, Params
from experiments.figures import as_rows
from experiments.mode_policy import navigation
from experiments.mode_policy.method import Trained, make_act, prepare
from experiments.mode_policy.navigation import Rollout
from experiments.mode_policy.suite import Facts, Suite

BOTH = (0.2, 0.8)  # shares of the left way between which a policy uses both
COLOURS = ("#1f5fa8", "#c8502e", "#3a8f4b", "#8a5aa8", "#b58900", "#2a9d9d", "#b5416f", "#5c5c5c")


def open_navigation(config: ConfigDict) -> Suite:
    """The suite; nothing is read."""
    tasks = range(navigation.TASKS)
    names = tuple(f"goal-{task}" for task in tasks)
    sentences = tuple(navigation.sentence(task) for task in tasks)
    make = partial(navigation.demonstrations, config.seed, config.data.per_task, config.data.spread)
    return Suite(Facts(names, sentences, (2, 2)), make, evaluate, draw)


class Found(NamedTuple):
    """A policy's episodes from starts with one spread."""

    policy: str
    spread: float
    rollout: Rollout


def run(trained: Trained, n: int) -> list[Found]:
    """``n`` episodes of each task, by every policy, from each of ``config.eval.spreads``."""
    config, found = trained.config, []
    task = jnp.tile(jnp.arange(navigation.TASKS), n)
    for name, recipe in trained.recipes.items():
        answer = make_act(config, recipe)

        def roll(params: Params, spread: Array, answer: Any = answer) -> Rollout:
            def act(keys: Keys, position: Array, task: Array) -> Array:
                return answer(params, trained.normalisers, keys, {"state": position[:, None]}, task)

            key = jax.random.key(config.seed + 1)
            return navigation.roll_out(act, key, task, config.sample.execute, spread)

        rolled, params = jax.jit(roll), prepare(config, recipe, trained.nets[name])
        found += [Found(name, s, rolled(params, jnp.asarray(s))) for s in config.eval.spreads]
    return found


def evaluate(trained: Trained, workdir: Path) -> Mapping[str, Any]:
    """Success, collisions and the use of both ways; the picture ``ways.png``."""
    config = trained.config
    ran = run(trained, config.eval.episodes)
    draw_ways(workdir / "ways.png", ran)
    figures, table = [], {}
    for name, spread, rollout in ran:
        group = f"{'' if name == 'model' else name + '/'}spread_{spread:g}"
        table[group] = measure(rollout) | {"parameters": float(count_params(trained.nets[name]))}
        about = {"n_fake": len(rollout.success), "split": f"seed {config.seed + 1}", "seed": config.seed}
        sure = wilson_interval(int(rollout.success.sum()), len(rollout.success))
        for what, value in table[group].items():
            ends = {"low": sure.low, "high": sure.high} if what == "success" else {}
            figures.append(Figure(f"{group}/{what}", value, **about, **ends))
    return {"figures": figures, "rows": as_rows(table, "model")}


def measure(rollout: Rollout) -> dict[str, float]:
    """Shares of all episodes, and of how many tasks successes lie on either side of the disc often enough."""
    success, hit, left = (np.asarray(x).reshape(-1, navigation.TASKS) for x in rollout[1:])
    shares = (left & success).sum(axis=0) / np.maximum(1, success.sum(axis=0))
    both = (shares >= BOTH[0]) & (shares <= BOTH[1])
    return {
        "success": float(success.mean()),
        "worst_task": float(success.mean(axis=0).min()),
        "hit": float(hit.mean()),
        "tasks_both_ways": float(both.sum()),
    }


def draw(trained: Trained, workdir: Path) -> None:
    """A few episodes of each task as a picture and as arrays."""
    ran = run(trained, -(-trained.config.sample.n // navigation.TASKS))
    draw_ways(workdir / "samples-ways.png", ran)


def draw_ways(path: Path, ran: Sequence[Found], most: int = 12) -> None:
    """Ways in the plane, a colour for each goal; ways that failed are dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = len({found.spread for found in ran})
    size = (4.2 * columns, 4.4 * (len(ran) // columns))
    figure, axes = pyplot.subplots(
        len(ran) // columns, columns, figsize=size, layout="constrained", squeeze=False
    )
    for axis, (name, spread, rollout) in zip(axes.ravel(), ran, strict=True):
        _ways(axis, np.asarray(rollout.paths)[: most * navigation.TASKS], np.asarray(rollout.success))
        share = f"{np.asarray(rollout.success).mean():.1%} arrive"
        axis.set(title=f"{name}, start {'fixed' if spread == 0 else f'+- {spread:g}'}: {share}")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100))
    pyplot.close(figure)


def _ways(axis: Any, paths: Float[np.ndarray, "n s 2"], success: Any) -> None:
    from matplotlib.patches import Circle

    axis.add_patch(Circle((0, 0), navigation.RADIUS, color="#d9d9d9"))
    for index, path in enumerate(paths):
        task = index % navigation.TASKS
        style = {"linestyle": "-" if success[index] else ":", "alpha": 0.7, "linewidth": 0.9}
        axis.plot(*path.T, color=COLOURS[task], **style)
    goals = np.asarray(navigation.goal(jnp.arange(navigation.TASKS)))
    axis.scatter(*goals.T, c=COLOURS, s=60, zorder=3, edgecolors="white")
    axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xticks=(), yticks=())
