"""The part of JSON Schema that replies are held to."""

from collections.abc import Callable, Mapping
from typing import Any

from diffax import checks

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value % 1 == 0))
    ),
}
_RANGES: tuple[tuple[str, type | tuple[type, ...], Callable[[Any, Any], bool]], ...] = (
    ("minLength", str, lambda value, bound: len(value) >= bound),
    ("maxLength", str, lambda value, bound: len(value) <= bound),
    ("minItems", list, lambda value, bound: len(value) >= bound),
    ("maxItems", list, lambda value, bound: len(value) <= bound),
    ("minimum", (int, float), lambda value, bound: value >= bound),
    ("maximum", (int, float), lambda value, bound: value <= bound),
)
_KNOWN = frozenset(
    ("type", "enum", "const", "required", "properties", "additionalProperties", "items")
    + tuple(name for name, _, _ in _RANGES)
    + ("title", "description", "default", "examples", "$schema")
)


def require_schema(schema: Any, where: str = "schema") -> None:
    """Raise unless a schema says only what :func:`mismatch` checks: the rest would go unchecked."""
    checks.require(isinstance(schema, dict), where, type(schema).__name__, "a dict")
    for name in schema:
        checks.require_one_of(where, name, _KNOWN)
    for name in _listed(schema.get("type", [])):
        checks.require_one_of(f"{where}.type", name, _TYPES)
    extra = schema.get("additionalProperties", True)
    checks.require(isinstance(extra, bool), f"{where}.additionalProperties", extra, "true or false")
    for name, inner in schema.get("properties", {}).items():
        require_schema(inner, f"{where}.{name}")
    if "items" in schema:
        require_schema(schema["items"], f"{where}[]")


def mismatch(value: Any, schema: Mapping[str, Any], where: str = "$") -> str:
    """What is wrong with a value, without its content; "" if it follows the schema."""
    types = _listed(schema.get("type", []))
    if types and not any(_TYPES[name](value) for name in types):
        return f"{type(value).__name__} at {where}, not {' or '.join(types)}"
    choices = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    if not any(_same(value, choice) for choice in choices):
        return f"a value at {where} that is none of the choices"
    for name, kind, fits in _RANGES:
        if name in schema and isinstance(value, kind) and not fits(value, schema[name]):
            return f"a value at {where} beyond {name} {schema[name]}"
    return _inner(value, schema, where)


def _inner(value: Any, schema: Mapping[str, Any], where: str) -> str:
    found: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"no {name!r} at {where}" for name in schema.get("required", ()) if name not in value]
        if not schema.get("additionalProperties", True) and value.keys() - properties.keys():
            found.append(f"more keys at {where} than the schema has")
        found += [mismatch(value[n], inner, f"{where}.{n}") for n, inner in properties.items() if n in value]
    if isinstance(value, list) and "items" in schema:
        found += [mismatch(each, schema["items"], f"{where}[{i}]") for i, each in enumerate(value)]
    return next((each for each in found if each), "")


def _listed(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else types


def _same(value: Any, choice: Any) -> bool:
    """Equality where true is not 1."""
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)
