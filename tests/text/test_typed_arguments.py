"""Bare text between tags becomes JSON by the tool's schema, however it was cut."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.text.dialects.dialect import Tool
from quire.text.dialects.typed_arguments import TypedArguments

ROOT = {
    "type": "object",
    "properties": {
        "string": {"type": "string"},
        "integer": {"type": "integer"},
        "number": {"type": "number"},
        "boolean": {"type": "boolean"},
        "null": {"type": "null"},
        "object": {"type": "object"},
        "array": {"type": "array", "items": {"type": "string"}},
        "optional": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "optional_integer": {"type": ["integer", "null"]},
        "either": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        "words": {"enum": ["a", "b"]},
        "levels": {"enum": [1, 2, None]},
        "constant": {"const": True},
        "point": {"$ref": "#/$defs/Point"},
        "tree": {"$ref": "#/$defs/Tree"},
        "untyped": {"description": "anything"},
        "float": {"type": "float"},
        "names": {"type": ["list", "str"]},
        "any": {"type": "any"},
    },
    "$defs": {
        "Point": {"type": "object", "properties": {"x": {"type": "integer"}}},
        "Tree": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "array"}, {"$ref": "#/nowhere"}]},
    },
}
TOOL = Tool(name="f", parameters=ROOT)


def written(name: str, *pieces: str, tool: Tool | None = TOOL) -> str:
    out: list[str] = []
    arguments = TypedArguments(tool, out.append)
    value = arguments.value(name)
    for piece in pieces:
        value.add(piece)
    value.close()
    arguments.close()
    return "".join(out)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("string", "plain", "plain"),
        ("string", "5", "5"),
        ("string", "null", "null"),
        ("string", '"quoted" \\ \n\t\x00é', '"quoted" \\ \n\t\x00é'),
        ("string", "", ""),
        ("integer", "5", 5),
        ("integer", " -5\n", -5),
        ("integer", "5.5", "5.5"),
        ("integer", "five", "five"),
        ("integer", "null", None),
        ("integer", "", ""),
        ("integer", "true", "true"),
        ("number", "5", 5),
        ("number", "1e-3", 0.001),
        ("number", "NaN", "NaN"),
        ("boolean", "true", True),
        ("boolean", "False", False),
        ("boolean", "1", "1"),
        ("null", "None", None),
        ("object", '{"a": [1]}', {"a": [1]}),
        ("object", '{"a": "two\nlines"}', {"a": "two\nlines"}),
        ("object", "{'a': True, 'b': [None, (1, 2)]}", {"a": True, "b": [None, [1, 2]]}),
        ("object", "{'a': 1} and more", "{'a': 1} and more"),
        ("object", "{a: 1}", "{a: 1}"),
        ("object", "[1]", "[1]"),
        ("array", '["a", "b"]', ["a", "b"]),
        ("array", "[" * 100_000, "[" * 100_000),
        ("optional", "null", None),
        ("optional", "None", None),
        ("optional", "nullable", "nullable"),
        ("optional", '"quoted"', '"quoted"'),
        ("optional", "5", "5"),
        ("optional", "   ", "   "),
        ("optional_integer", "7", 7),
        ("optional_integer", "null", None),
        ("either", "1.5", 1.5),
        ("either", "1.5 m", "1.5 m"),
        ("either", "1-2", "1-2"),
        ("either", "1" * 100, "1" * 100),
        ("words", "a", "a"),
        ("words", "1", "1"),
        ("levels", "1", 1),
        ("levels", "null", None),
        ("constant", "True", True),
        ("point", '{"x": 1}', {"x": 1}),
        ("tree", "[1]", [1]),
        ("untyped", "5", "5"),
        ("untyped", "true", "true"),
        ("untyped", '{"a": 1}', {"a": 1}),
        ("untyped", "[1, 2]", [1, 2]),
        ("untyped", "{not json}", "{not json}"),
        ("untyped", "{'a': 1}", "{'a': 1}"),
        ("unknown", '{"a": 1}', {"a": 1}),
        ("float", "3.14", 3.14),
        ("float", "pi", "pi"),
        ("names", '["a"]', ["a"]),
        ("names", "5", "5"),
        ("any", "5", "5"),
        ("any", '{"a": 1}', {"a": 1}),
    ],
)
def test_values_are_what_the_schema_takes(name: str, text: str, value: Any) -> None:
    assert json.loads(written(name, text)) == {name: value}
    assert written(name, *text) == written(name, text)


def test_numbers_stay_as_they_were_written() -> None:
    assert written("number", "1.10") == '{"number": 1.10}'
    assert written("integer", "12345678901234567890") == '{"integer": 12345678901234567890}'


def test_other_names_are_typed_by_additional_properties() -> None:
    tool = Tool(name="f", parameters={"additionalProperties": {"type": "integer"}})
    assert written("any", "5", tool=tool) == '{"any": 5}'
    assert written("any", "5", tool=None) == '{"any": "5"}'


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"x": True}},
        {"properties": {"x": {"type": 5}}},
        {"properties": {"x": {"anyOf": 5, "enum": 5}}},
        {"properties": {"x": {"$ref": "elsewhere"}}},
        {"properties": {"x": {"$ref": "#/a/b/c"}}},
        {"properties": []},
    ],
)
def test_odd_schemas_are_untyped(parameters: dict[str, Any]) -> None:
    assert written("x", "5", tool=Tool(name="f", parameters=parameters)) == '{"x": "5"}'


def test_strings_go_out_as_they_come() -> None:
    out: list[str] = []
    value = TypedArguments(TOOL, out.append).value("string")
    for letter in "abc":
        value.add(letter)
        assert out[-1] == letter


@pytest.mark.parametrize(("name", "text"), [("optional", "nu"), ("either", "12"), ("untyped", " ")])
def test_what_may_be_another_type_is_held(name: str, text: str) -> None:
    out: list[str] = []
    value = TypedArguments(TOOL, out.append).value(name)
    before = list(out)
    value.add(text)
    assert out == before
    value.add("x and more")
    assert "".join(out).endswith(f'"{text}x and more')


@given(
    name=st.sampled_from(list(ROOT["properties"])),
    text=st.text(alphabet='nulNoetrufas0123456789.-eE {}[]",\\\n', max_size=80),
    cuts=st.sets(st.integers(0, 80)),
)
def test_cuts_change_nothing(name: str, text: str, cuts: set[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert written(name, *pieces) == written(name, text)
    json.loads(written(name, text))


def test_what_is_cut_off_stands_as_it_was_written() -> None:
    def cut(name: str, text: str) -> str:
        out: list[str] = []
        value = TypedArguments(TOOL, out.append).value(name)
        value.add(text)
        value.cut()
        return "".join(out)

    assert cut("string", "ab") == '{"string": "ab'
    assert cut("array", "[1, ") == '{"array": [1, '
    assert cut("optional", "nu") == '{"optional": nu'
