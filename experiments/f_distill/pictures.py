"""Pictures: clouds on the ring, teacher beside student, weights h(r), quality against network calls."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffax.io import write_atomically
from diffax.losses.divergences import ALIASES, DIVERGENCES
from experiments.pictures import scatter, sheet

NAMES = {"": "student", "init": "student at the start", "real": "real data"}


def draw_points(folder: Path, clouds: Mapping[str, Float[np.ndarray, "n 2"]]) -> None:
    """``samples-points.png``: clouds side by side."""
    scatter(folder / "samples-points.png", [list(clouds.values())], [[NAMES.get(k, k) for k in clouds]])


def draw_pairs(
    path: Path, teacher: Float[np.ndarray, "n h w c"], student: Float[np.ndarray, "n h w c"]
) -> None:
    """Rows in pairs: the teacher's images, and under each the student's from the same noise."""
    columns = min(10, len(teacher))
    rows = [half.reshape(-1, columns, *half.shape[1:]) for half in (teacher, student)]
    sheet(path, np.stack(rows, axis=1).reshape(-1, *teacher.shape[1:]), columns)


def draw_weights(path: Path, chosen: str) -> None:
    """``h(r) / h(1)`` of every divergence, the chosen one bold."""
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    r = jnp.geomspace(0.1, 20, 200)
    for name, rule in DIVERGENCES.items():
        bold = name == ALIASES.get(chosen, chosen)
        style = {"linewidth": 3.0 if bold else 1.0, "label": f"{name} (this run)" if bold else name}
        axis.loglog(r, rule.h(r) / rule.h(jnp.ones(())), **style)
    axis.set(xlabel="r = teacher / student", ylabel="h(r) / h(1)", ylim=(0.02, 100))
    axis.legend(fontsize=7)
    _save(figure, path)


def draw_pareto(path: Path, found: Mapping[str, Mapping[str, float]], teacher: str, name: str) -> None:
    """A figure of merit against network calls: the student, and the teacher with each solver."""
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    drawn = sorted((values["nfe"], values[name], group) for group, values in found.items() if "nfe" in values)
    below: Counter[float] = Counter()  # labels at the same number of calls so far
    for calls, value, group in drawn:
        own, at, beside = group == "", (calls, value), (6, 10 * below[calls] - 6)
        below[calls] += 1
        axis.loglog(*at, "*" if own else "o", markersize=14 if own else 6)
        axis.annotate(NAMES.get(group, group), at, beside, textcoords="offset points", fontsize=8)
    axis.set(xlabel="network calls a sample", ylabel=f"{name} (teacher: {teacher})")
    axis.margins(0.2)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    _pyplot().close(figure)
