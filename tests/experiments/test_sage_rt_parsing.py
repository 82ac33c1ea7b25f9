"""JSON out of models' texts: what each rung reads, what none does, and what is held to a schema."""

import contextlib
import json
import time

import pytest

from experiments.sage_rt.parsing import Malformed, read_json
from experiments.sage_rt.schemas import require_schema

FRUIT = {
    "type": "object",
    "required": ["name", "count"],
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["pome", "stone", 1]},
        "parts": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    },
    "additionalProperties": False,
}
PLUM = {"name": "plum", "count": 2}
GOOD = json.dumps(PLUM)


@pytest.mark.parametrize(
    ("text", "value", "rung"),
    [
        (GOOD, PLUM, "strict"),
        (" 3 ", 3, "strict"),
        (f"Here it is:\n```json\n{GOOD}\n```\nBye.", PLUM, "slice"),
        (f'I\'d say {GOOD}, "as {{asked".', PLUM, "slice"),
        (f"A set {{ of fruit: {GOOD}", PLUM, "slice"),
        ('Well: {"a": "}", "b": "\\"}{"} and so on', {"a": "}", "b": '"}{'}, "slice"),
        ('[1] says {"a": [1, 2]}', {"a": [1, 2]}, "slice"),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}, "control"),
        ('\ufeff{"a": "one\x00"}', {"a": "one"}, "control"),
        ('{"a": [1, 2,], }', {"a": [1, 2]}, "repaired"),
        (
            "{'a': 'it\\'s \"so\"', 'b': True, 'c': None}",
            {"a": 'it\'s "so"', "b": True, "c": None},
            "repaired",
        ),
        ('So: {"a": [1, {"b": "two', {"a": [1, {"b": "two"}]}, "repaired"),
        ('{"a": "b\\', {"a": "b"}, "repaired"),
        ('{"a": "b\\\\', {"a": "b\\"}, "repaired"),
        ("```\n{'a': ', }',}\n```", {"a": ", }"}, "repaired"),
    ],
)
def test_rungs(text, value, rung):
    assert read_json(text) == (value, rung)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no braces",
        "[1 2]",
        '{"a" 1}',
        '{"a": [1}',
        '{"a": NaN}',
        '"\\ud800"',
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        "{'",
        "}{",
    ],
)
def test_what_nothing_reads(text):
    with pytest.raises(Malformed, match="allowed: JSON"):
        read_json(text)


@pytest.mark.parametrize("piece", ["[", "{'", '{"a', "\\", "'", '"', "```\n{", "{}", '{"a":', ",]"])
def test_long_texts_take_no_long_time(piece):
    for size in (2**18, 10**7):
        begun = time.process_time()
        with contextlib.suppress(Malformed):
            read_json(piece * (size // len(piece)), FRUIT)
        assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "list at $, not object"),
        ({"name": "plum"}, "no 'count' at $"),
        ({**PLUM, "count": True}, r"bool at $.count, not integer"),
        ({**PLUM, "count": 1.5}, r"float at $.count, not integer"),
        ({**PLUM, "count": -1}, r"beyond minimum 0"),
        ({**PLUM, "name": "pomegranate"}, "$.name beyond maxLength 8"),
        ({**PLUM, "kind": "nut"}, "$.kind that is none"),
        ({**PLUM, "kind": True}, "$.kind that is none"),
        ({**PLUM, "parts": []}, "beyond minItems"),
        ({**PLUM, "parts": ["a"] * 3}, "beyond maxItems"),
        ({**PLUM, "parts": ["a", 1]}, "int at $.parts[1], not string"),
        ({**PLUM, "colour": "red"}, "more keys at $"),
    ],
)
def test_what_a_schema_refuses(value, message):
    with pytest.raises(Malformed) as error:
        read_json(json.dumps(value), FRUIT)
    assert message in str(error.value)


def test_the_slice_that_follows_the_schema_is_taken():
    text = f'First {{"name": "a plum that is long", "count": 1}}, no: {GOOD}'
    assert read_json(text, FRUIT) == (PLUM, "slice")


@pytest.mark.parametrize(
    "schema",
    [{"pattern": "a"}, {"type": "text"}, {"properties": {"a": {"$ref": "#"}}}, {"items": {"anyOf": []}}, []],
)
def test_schemas_that_would_go_unchecked_are_refused(schema):
    with pytest.raises(ValueError, match=r"schema.*allowed"):
        require_schema(schema)
    require_schema(FRUIT)
