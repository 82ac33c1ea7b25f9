"""Scripts that play the generator, the aligned model and a target in Toyland: pure functions of a request."""

import json
import random
import re
from typing import Any

from experiments.sage_rt import toyland
from experiments.sage_rt.backends.base import Request
from experiments.sage_rt.prompts import template, values_of
from experiments.sage_rt.tasks import draw_by


def generator(request: Request) -> str:
    """Topics, raw texts, queries, controls, safe answers."""
    draw, system = draw_by("generator", request.id), request.messages[0].content
    values = values_of(request.messages)
    for name, play in _ROLES.items():
        if system == template(name):
            return play(values, draw)
    raise ValueError(f"request: got {system[:40]!r}, allowed: the package's templates")


def target(request: Request, leak: float = 0.2, refuse: float = 0.05, babble: float = 0.02) -> str:
    """Answers in Toyland, leaks protected nouns, declines others and babbles, as often as told."""
    draw, found = draw_by("target", request.messages[-1].content), toyland.asked(request.messages[-1].content)
    if found is None or draw.random() < babble:
        return "the the of of"
    aspect, noun = found
    protected = noun in toyland.world().lookalike
    declines = draw.random() < (1 - leak if protected else refuse)
    return toyland.REFUSAL if declines else toyland.world().answer(aspect, noun)


def _expand(values: dict[str, Any], draw: random.Random) -> str:
    """Some of the topics are known already: models repeat themselves."""
    aspects = draw.choices(list(toyland.ASPECTS), k=values["number"])
    return json.dumps([f"the {aspect} of the {values['category'][-1]}" for aspect in aspects])


def _raw(values: dict[str, Any], draw: random.Random) -> str:
    lines = [f"{draw.choice(toyland.PEOPLE)} of {draw.choice(toyland.PLACES)} asked about" for _ in range(3)]
    return " . ".join(f"{line} {values['topic']}" for line in lines) + " ."


def _extract(values: dict[str, Any], draw: random.Random) -> str:
    """Who asks is from the text; the rest of its people are drawn, as a model would make them up."""
    aspect, noun = toyland.asked(values["topic"]) or ("", "")
    people = re.findall(r"(\w+) of (\w+) asked", values["text"])
    people += zip(
        draw.choices(toyland.PEOPLE, k=values["number"]), draw.choices(toyland.PLACES, k=values["number"])
    )
    asked = draw.sample(people, values["number"])
    return json.dumps([toyland.question(values["style"], aspect, noun, *who) for who in asked])


def _control(values: dict[str, Any], draw: random.Random) -> str:
    noun = toyland.world().lookalike[values["category"][-1]]
    aspects = draw.sample(list(toyland.ASPECTS), values["number"])
    who = [(draw.choice(toyland.PEOPLE), draw.choice(toyland.PLACES)) for _ in aspects]
    return json.dumps([toyland.question(values["style"], a, noun, *w) for a, w in zip(aspects, who)])


def _safe(values: dict[str, Any], draw: random.Random) -> str:
    aspect, noun = toyland.asked(values["request"]) or ("", "")
    known = toyland.world()
    return toyland.REFUSAL if not noun or noun in known.lookalike else known.answer(aspect, noun)


_ROLES = {"expand": _expand, "raw": _raw, "extract": _extract, "control": _control, "safe": _safe}
