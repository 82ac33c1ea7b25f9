"""Result files: every figure with what it needs to be compared: samples, split, extractor, seed.

Two Fréchet distances are comparable only if the extractor, the number of samples and the split agree, so
a figure carries them, the extractor by name and by digest. Files are JSON and are replaced whole: a
reader never sees half of one.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from diffax.checks import require
from diffax.io.files import write_text


class Figure(NamedTuple):
    """One measured figure; None where a field does not apply.

    ``extractor`` is ``{"name": ..., "digest": ...}``, see ``FeatureExtractor``. ``low`` and ``high`` bound
    the 95 % interval of the value.
    """

    name: str
    value: float
    n_real: int | None = None
    n_fake: int | None = None
    split: str | None = None
    extractor: Mapping[str, str] | None = None
    seed: int | None = None
    low: float | None = None
    high: float | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Everything but the value and its interval: two figures with one identity measure the same thing."""
        extractor = tuple(sorted((self.extractor or {}).items()))
        return (self.name, self.n_real, self.n_fake, self.split, extractor, self.seed)


class Result(NamedTuple):
    """Figures, and notes on the run (configuration, step, versions) that JSON can hold."""

    figures: tuple[Figure, ...]
    notes: Mapping[str, Any] = MappingProxyType({})

    def value(self, name: str) -> float:
        """The value of the only figure of that name; ``ValueError`` if there is none, or several."""
        found = [figure.value for figure in self.figures if figure.name == name]
        names = sorted({figure.name for figure in self.figures})
        require(len(found) == 1, "name", name, f"a name that one figure has, of {names}")
        return found[0]


def write_result(
    path: str | Path, figures: Sequence[Figure], notes: Mapping[str, Any] | None = None
) -> Result:
    """Write figures and notes as JSON, atomically; returns them as a ``Result``.

    Values that are not finite are written as "inf", "-inf" or "nan", which JSON has no numbers for.
    """
    result = Result(tuple(figures), dict(notes or {}))
    rows = [figure._asdict() | _numbers(figure._asdict(), _to_json) for figure in result.figures]
    text = json.dumps({"figures": rows, "notes": result.notes}, indent=1, allow_nan=False)
    write_text(path, text + "\n")
    return result


def read_result(path: str | Path) -> Result:
    """Read what ``write_result`` wrote. Raises ``ValueError`` naming the file for anything else."""
    require(Path(path).is_file(), "path", str(path), "an existing result file")
    try:
        content = json.loads(Path(path).read_text())
        figures = [Figure(**(row | _numbers(row, float))) for row in content["figures"]]
        return Result(tuple(figures), content["notes"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: got {error!r}, allowed: a file that write_result wrote") from error


def merge(*results: Result) -> Result:
    """All figures together; of the same figure measured twice, and of notes, the later one stays."""
    figures = {figure.identity: figure for result in results for figure in result.figures}
    notes = {key: value for result in results for key, value in result.notes.items()}
    return Result(tuple(figures.values()), notes)


def _numbers(row: Mapping[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The value, which must be there, and what bounds it, which older files lack, each converted."""
    bounds = {name: row[name] for name in ("low", "high") if row.get(name) is not None}
    return {name: convert(number) for name, number in {"value": row["value"], **bounds}.items()}


def _to_json(value: float) -> float | str:
    value = float(value)
    return value if math.isfinite(value) else str(value)
