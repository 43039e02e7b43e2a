"""Grammars that are made to take long or take much: each is refused, or compiled, within the bounds."""

import time
from typing import Any

import pytest

from quire.core.errors import InvalidRequest
from quire.core.structured_outputs import StructuredOutputs

MOST_S = 30.0
"""Of the clock, on a machine that may be busy; processor time is limited to much less."""


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(keyword: str, depth: int) -> dict[str, Any]:
    """Each definition refers to the next one twice."""
    defs: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": defs | {f"d{depth}": {"type": "string"}}, "$ref": "#/$defs/d0"}


CHAIN = 40
HOSTILE = {
    "enum of 1 MB": {"json": {"enum": [f"value number {i:08d}" for i in range(50_000)]}},
    "enum of 250 KB": {"json": {"enum": [f"value number {i:08d}" for i in range(10_000)]}},
    "5,000 properties": {"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}}},
    "600 properties": {"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}}},
    "depth 30": {"json": nested(30)},
    "depth 500": {"json": nested(500)},
    "depth 900": {"json": nested(900)},
    "depth 900 as text": {"json": '{"items":' * 900 + "{}" + "}" * 900},
    "depth 100,000 as text": {"json": "[" * 100_000},
    "allOf doubled": {"json": doubling("allOf", 30)},
    "anyOf doubled": {"json": doubling("anyOf", 30)},
    "oneOf doubled": {"json": doubling("oneOf", 30)},
    "all of any": {
        "json": {
            "allOf": [{"anyOf": [{"properties": {f"a{i}": {"const": c}}} for c in (0, 1)]} for i in range(25)],
            "type": "object",
        }
    },
    "all of patterns": {"json": {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(20)]}},
    "large lengths": {"json": {"type": "string", "minLength": 100_000_000, "maxLength": 1_000_000_000}},
    "many items": {"json": {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000_000}},
    "multiples of a prime": {"json": {"type": "integer", "multipleOf": 1_000_000_007}},
    "self reference": {"json": {"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}},
    "nested plus": {"regex": "(a+)+b"},
    "nested counts": {"regex": "((x{100}){100}){100}"},
    "nested counts behind text": {"regex": "ab((x{100}){100}){100}"},
    "counted dots": {"regex": ".*a.{30}"},
    "counted dots, many": {"regex": "(.*a.{30}){30}"},
    "optional then required": {"regex": "a?" * 20_000 + "a" * 20_000},
    "deep groups": {"regex": "(" * 5000 + "a" + ")" * 5000},
    "many words": {"regex": "|".join(f"w{i * 7919 % 100003}x" for i in range(20_000))},
    "look-ahead": {"regex": "(?=a)a"},
    "look-behind": {"regex": "(?<!a)b"},
    "not a regex": {"regex": "(*["},
    "self recursion": {"grammar": "start: start"},
    "ambiguous": {"grammar": 'start: start start | "a" | ""'},
    "doubling rules": {
        "grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(CHAIN)) + f'r{CHAIN}: "a"'
    },
    "doubling terminals": {
        "grammar": "start: R0\n" + "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(CHAIN)) + f'R{CHAIN}: "a"'
    },
    "nested repeats": {"grammar": 'start: (("a"{1000}){1000}){1000}'},
    "deep parentheses": {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    "5,000 alternatives": {"grammar": "start: " + " | ".join(f'"a" /{i}[a-z]+/' for i in range(5000))},
    "1,024 long choices": {"choice": tuple(f"{i:04d}" + "x" * 250 for i in range(1024))},
    "deep structural tag": {"structural_tag": {"format": nested(100)}},
}
MUST_BE_REFUSED = (
    "enum of 1 MB", "5,000 properties", "600 properties", "depth 500", "depth 900", "depth 900 as text",
    "depth 100,000 as text", "all of patterns", "nested counts", "optional then required", "deep groups", "look-ahead",
    "look-behind", "not a regex", "self recursion", "doubling terminals", "nested repeats", "deep parentheses",
    "deep structural tag",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_within_bounds(door, name):
    wanted = StructuredOutputs(**HOSTILE[name])
    begun = time.monotonic()
    try:
        text = door.check(wanted)
    except InvalidRequest as refused:
        assert refused.param is not None and refused.param.startswith("$.structured_outputs.")
        assert len(refused.message) < 1000
    else:
        assert name not in MUST_BE_REFUSED
        assert len(text) < 1_000_000
    assert time.monotonic() - begun < MOST_S


def test_the_next_grammar_fares_as_if_nothing_had_been(door, is_match):
    with pytest.raises(InvalidRequest, match=r"processor time|complex"):
        door.check(StructuredOutputs(regex="b?" * 20_000 + "b" * 20_000))
    assert is_match(door.check(StructuredOutputs(regex="after it")), "after it")
