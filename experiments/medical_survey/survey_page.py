"""The page on all applications: an overview, then method, figures and pictures of each."""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffax.evaluation import Figure, Result
from experiments.medical_survey import page

_NAMES = {"": "diffusion", "unet": "U-Net", "cnn": "CNN", "pca": "PCA", "tv": "total variation", "fbp": "FBP"}


class Section(NamedTuple):
    """One application's part; ``entry`` is a :class:`experiments.medical_survey.survey.Entry`."""

    entry: Any
    about: str
    found: Result
    folder: Path
    seconds: float


def render(sections: Sequence[Section]) -> str:
    """The page as one file, pictures inline."""
    title = "Applications of diffusion models to medical images"
    parts = [overview(sections), *map(section, sections)]
    return page.document(title, facts(sections), "".join(parts))


def facts(sections: Sequence[Section]) -> str:
    """What all figures have in common."""
    notes = sections[0].found.notes
    figure = next(f for s in sections for f in s.found.figures if f.n_real)
    minutes = sum(s.seconds for s in sections) / 60
    return (
        f"Held-out cases: {figure.split}; seed {figure.seed}; {notes.get('device', 'unknown device')}, "
        f"jax {notes.get('jax', '')}. In brackets 95 % intervals over cases. "
        f"{minutes:.0f} minutes in this call."
    )


def overview(sections: Sequence[Section]) -> str:
    """A row an application: its headline figure, and that of the baseline; the better one bold."""
    head = (
        "<tr><th>application</th><th>figure</th><th>diffusion</th><th>baseline</th><th></th><th>n</th></tr>"
    )
    return f"<h2>Overview</h2><table>{head}{''.join(map(_overview_row, sections))}</table>"


def section(part: Section) -> str:
    """Method, table and pictures of one application."""
    first, _, rest = part.about.strip().partition("\n\n")
    images = [(path, path.stem.replace("-", " ")) for path in sorted(part.folder.glob("*.png"))]
    shown = "".join(map(page.picture, images))
    name = html.escape(part.entry.name.replace("_", " "))
    return (
        f'<h2 id="{part.entry.name}">{name}</h2><p><b>{html.escape(first)}</b></p>{prose(rest)}'
        f'{table(part.found)}<div class="sheets">{shown}</div>'
    )


def prose(text: str) -> str:
    """A module's docstring as HTML: paragraphs, points that begin with ``*``, formulas that are indented."""
    return "".join(map(_block, filter(None, text.strip("\n").split("\n\n"))))


def _block(text: str) -> str:
    if text.startswith("    "):
        return f"<pre>{html.escape(text)}</pre>"
    words = re.sub(r"``(.+?)``", r"<code>\1</code>", html.escape(text, quote=False), flags=re.DOTALL)
    if not words.startswith("* "):
        return f"<p>{words}</p>"
    points = (re.sub(r"\*(.+?)\*", r"<em>\1</em>", point) for point in words[2:].split("\n* "))
    return f"<ul>{''.join(f'<li>{point}</li>' for point in points)}</ul>"


def table(found: Result) -> str:
    """A row a group of figures, a column a name; the method itself first."""
    figures = [(*_split(f.name), f) for f in found.figures]
    groups = sorted(
        {group for group, _, _ in figures}, key=lambda g: (g != "", [f[0] for f in figures].index(g))
    )
    names = list(dict.fromkeys(name for _, name, _ in figures))
    cells = {(group, name): f for group, name, f in figures}
    head = "<tr><th></th>" + "".join(f"<th>{html.escape(n.replace('_', ' '))}</th>" for n in names) + "</tr>"
    body = "".join(
        f"<tr><td>{html.escape(_title(group))}</td>"
        + "".join(f"<td>{value(cells.get((group, name)))}</td>" for name in names)
        + "</tr>"
        for group in groups
    )
    return f"<table>{head}{body}</table>"


def value(figure: Figure | None) -> str:
    """A figure with its interval."""
    if figure is None:
        return ""
    interval = "" if figure.low is None else f" <small>[{figure.low:.4g}, {figure.high:.4g}]</small>"
    return f"{figure.value:.4g}{interval}"


def _overview_row(part: Section) -> str:
    entry = part.entry
    pair = [_named(part.found, group, entry.metric) for group in (entry.ours, entry.baseline)]
    texts, outcome = [value(f) for f in pair], ""
    if all(f is not None for f in pair):
        own, other = (float(f"{f.value:.4g}") for f in pair)
        best = [0, 1] if own == other else [0] if (own < other) == entry.lower else [1]
        texts = [f"<b>{text}</b>" if k in best else text for k, text in enumerate(texts)]
        outcome = ("diffusion ahead", "baseline ahead")[best[0]] if len(best) == 1 else "equal"
    cells = [
        f'<a href="#{entry.name}">{html.escape(entry.name.replace("_", " "))}</a>',
        html.escape(entry.metric.replace("_", " ")),
        f"{texts[0]}<br><small>{html.escape(_title(entry.ours))}</small>",
        f"{texts[1]}<br><small>{html.escape(_title(entry.baseline))}</small>",
        outcome,
        str(pair[0].n_real) if pair[0] is not None else "",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _named(found: Result, group: str, name: str) -> Figure | None:
    wanted = f"{group}/{name}" if group else name
    return next((f for f in found.figures if f.name == wanted), None)


def _split(name: str) -> tuple[str, str]:
    group, _, own = name.rpartition("/")
    return group, own


def _title(group: str) -> str:
    return _NAMES.get(group, group.replace("_", " "))
