"""What policies learn from and are tried on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from diffax.data.episodes import Episodes
from experiments.mode_policy.method import Trained


class Suite(NamedTuple):
    """Tasks, and a sentence that says each; ``widths`` of a state and an action; where demonstrations come
    from; figures and pictures of trained policies; ``images``: of each camera, (h, w, 3)."""

    tasks: tuple[str, ...]
    sentences: tuple[str, ...]
    widths: tuple[int, int]
    demonstrations: Callable[[], Episodes]
    evaluate: Callable[[Trained, Path], Mapping[str, Any]]
    draw: Callable[[Trained, Path], None]
    images: Mapping[str, tuple[int, ...]] = MappingProxyType({})
