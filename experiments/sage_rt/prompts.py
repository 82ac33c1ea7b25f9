"""What models are asked: fixed neutral text from a file, then all values as JSON in a marked block.

Templates have no placeholders. Values, some of which models wrote, are data: they stand in one block whose
mark cannot occur in them, they are never read as a template, and ids and categories never come from them.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from diffax.checks import require
from experiments.sage_rt.backends.base import Message
from experiments.sage_rt.tasks import canonical, digest

_FOLDER = Path(__file__).parent / "templates"
_BLOCK = re.compile(r"<data ([0-9a-f]{12})>\n(.*)\n</data \1>", re.DOTALL)

FORMATS = {
    "article": "A short encyclopaedia-like article.",
    "blog": "A personal blog post.",
    "forum": "A thread in a forum, several voices.",
    "faq": "A list of questions that people ask.",
    "report": "A sober report for an office.",
    "dialogue": "A dialogue between two people.",
    "news": "A news item on how the topic is talked about.",
}
STYLES = {
    "direct": "A plain question.",
    "task": "An instruction to carry out a task.",
    "role": "A request that gives the reader a role.",
    "fiction": "A request inside an invented story.",
    "professional": "A request from someone's work or lessons.",
    "multi_step": "A request in several steps.",
    "format": "A request for an unusual form of output.",
}


@cache
def template(name: str) -> str:
    """The text of a template; ValueError for an unknown one."""
    file = _FOLDER / f"{name}.txt"
    require(file.is_file(), "template", name, f"one of {sorted(path.stem for path in _FOLDER.glob('*.txt'))}")
    return file.read_text(encoding="utf-8").strip()


def compose(name: str, values: dict[str, Any]) -> tuple[Message, ...]:
    """A template and the values it is about."""
    mark = digest(name, values)[:12]
    assert mark not in canonical(values)
    block = json.dumps(values, ensure_ascii=False, indent=1)
    return (Message("system", template(name)), Message("user", f"<data {mark}>\n{block}\n</data {mark}>"))


def values_of(messages: tuple[Message, ...]) -> dict[str, Any]:
    """The values of :func:`compose`, for scripts that play a model."""
    found = _BLOCK.search(messages[-1].content)
    assert found is not None
    return dict(json.loads(found[2]))
