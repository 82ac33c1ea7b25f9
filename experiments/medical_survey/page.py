"""Reports as one HTML file: facts, a table, and every picture inline."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffax.evaluation import Figure

_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left }
tr.floor { background: #f3f3f3 }
img { max-width: 100%; image-rendering: pixelated }
figure { margin: 1.2rem 0 }
figcaption { color: #444 }
.sheets { display: flex; flex-wrap: wrap; gap: 1rem }
.sheets figure { margin: 0 }
figcaption { max-width: 28rem }
"""
_COLUMNS = (
    ("framework", "{framework}"),
    ("sampler", "{solver}"),
    ("calls", "{nfe}"),
    ("Fréchet", "{frechet:.2f}"),
    ("x floor", "{ratio:.2f}"),
    ("class accuracy", "{class_accuracy:.3f}"),
    ("coverage", "{coverage:.3f}"),
    ("copy ratio", "{copy_median_ratio:.2f}"),
    ("seconds", "{seconds:.1f}"),
)


class Section(NamedTuple):
    """A heading and its pictures with captions; ``wide`` ones stand below each other."""

    heading: str
    pictures: Sequence[tuple[Path, str]]
    wide: bool = True


def render(
    title: str, facts: str, rows: Sequence[Mapping[str, Any]], floor: Figure, sections: Sequence[Section]
) -> str:
    """The page: facts, the table with the floor on top, then the pictures."""
    body = f"""{table(rows, floor)}
<p>Class accuracy: how often the classifier reads the class that was asked for. Coverage: share of real
images with a sample among their five nearest. Copy ratio: median distance of samples to their nearest
training image over that of held-out images; well below 1 would speak of copies.</p>
{"".join(map(section, sections))}
"""
    return document(title, facts, body)


def document(title: str, facts: str, body: str) -> str:
    """A whole page around a body of HTML."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(facts)}</p>
{body}
</html>
"""


def table(rows: Sequence[Mapping[str, Any]], floor: Figure) -> str:
    """Framework x sampler x calls x distance x seconds."""
    head = "".join(f"<th>{name}</th>" for name, _ in _COLUMNS)
    real = ["real", f"{floor.n_fake} training images", "", f"{floor.value:.2f}", "1.00", "", "", "", ""]
    body = [_row(real, ' class="floor"')]
    for row in rows:
        values = {**row, "ratio": row["frechet"] / floor.value}
        body.append(_row([html.escape(text.format(**values)) for _, text in _COLUMNS]))
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def section(part: Section) -> str:
    """A heading and its pictures."""
    kind = "" if part.wide else ' class="sheets"'
    return f"<h2>{html.escape(part.heading)}</h2><div{kind}>{''.join(map(picture, part.pictures))}</div>"


def picture(named: tuple[Path, str]) -> str:
    """A PNG inline, so that the page is one file."""
    path, caption = named
    text, data = html.escape(caption), base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _row(cells: Sequence[str], attributes: str = "") -> str:
    return f"<tr{attributes}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
