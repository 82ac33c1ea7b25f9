"""Every field of a run with its default, and the variants."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffax.checks import require_one_of
from experiments.sage_rt.prompts import FORMATS, STYLES

BACKEND = {
    "kind": "toyland",  # toyland, http, python
    "url": "",  # of http: up to and without /chat/completions
    "model": "",
    "key_env": "",  # environment variable that holds the key
    "function": "",  # of python: module:function, text to text
    "concurrency": 16,
    "temperature": 0.0,
    "max_tokens": 512,
}
SMOKE = {"generate.topics": 1, "generate.styles": ("direct", "format"), "eval.resamples": 200}
PAPER = {  # 279 x 6 topics, 31 requests for each
    "generate.topics": 6,
    "generate.rounds": 40,
    "generate.formats": tuple(FORMATS)[:5],
    "generate.queries": 2,
}


def get_settings() -> ConfigDict:
    """The defaults: Toyland, its scripts as models."""
    return ConfigDict(
        {
            "experiment": "sage_rt",
            "seed": 0,
            "taxonomy": "toyland",
            "responsible_use": {"operator": "", "purpose": "", "target_owner_confirmation": ""},
            "keep_days": 90,
            "generate": {
                "topics": 2,  # of a leaf
                "rounds": 20,
                "patience": 6,  # rounds without a new topic after which a leaf stays short
                "number": 4,  # topics that a round asks for
                "formats": ("article",),
                "styles": tuple(STYLES),
                "queries": 1,  # of each text and style
                "controls": 1,  # of each leaf and style
                "near_duplicate": 0.7,  # Jaccard index of three-word shingles
                "characters": 2000,
            },
            "generator": dict(BACKEND),
            "aligned": dict(BACKEND),
            "target": {"name": "target", **BACKEND},
            "judge": {**BACKEND, "kind": "rules"},
            "eval": {"thresholds": (0.01, 0.05, 0.1), "level": 0.95, "resamples": 2000},
        }
    )


def variant_of(variant: str) -> ConfigDict:
    """``demo``, ``smoke``, ``paper``."""
    known: dict[str, Mapping[str, Any]] = {"demo": {}, "smoke": SMOKE, "paper": PAPER}
    require_one_of("variant", variant, known)
    config = get_settings()
    config.update_from_flattened_dict(known[variant])
    return config
