"""Every shape that an answer can be asked to have, held against answers that have it and answers that do not."""

import json

import msgspec
import pytest

from quire.core.errors import InvalidRequest, Unsupported
from quire.core.structured_outputs import MAX_GRAMMAR_CHARS, StructuredOutputs

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("given", [PERSON, json.dumps(PERSON)])
def test_json_schema(check, given):
    check(
        ('{"name": "Ada", "age": 36}', '{"name":"Ünï","age":0,"tags":["a","b"]}', '{\n  "name": "x",\n  "age": 1\n}'),
        ("{}", '{"name": "", "age": 3}', '{"name": "Ada", "age": 151}', '{"name": "A", "age": 1, "x": 1}', "[]", ""),
        json=given,
    )


def test_any_json_and_any_object(check):
    check(("1", "[]", '{"a": [true, null]}'), ("x", ""), json=True)
    check(("{}", '{"a": {"b": [1]}}'), ("1", "[]"), json_object=True)


def test_recursive_schema(check):
    tree = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    check(('{"next": {"next": {}}}',), ('{"next": 1}',), json=tree)


def test_whitespace(check):
    one = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    check(('{"a":1}',), ('{"a": 1}', '{ "a":1}'), json=one, disable_any_whitespace=True)
    check(('{"a":1}', '{"a": 1}'), ('{"a":  1}', '{"a":\n1}'), json=one, whitespace_pattern="[ ]?")
    check(('{"a":' + " " * 100 + "1}",), ('{"a":' + " " * 1000 + "1}",), json=one)


def test_no_further_properties(check):
    nested = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}}}
    further = '{"a": {"b": 1, "c": 2}}'
    check((further,), (), json=nested)
    check(('{"a": {"b": 1}}',), (further,), json=nested, disable_additional_properties=True)


def test_regex(check):
    check(("ab/12", "ab/1"), ("ab/", "ab12", "ab/123", "xab/1"), regex=r"ab/\d{1,2}")
    check(("2026-01-31",), ("2026-1-31",), regex=r"^\d{4}-\d{2}-\d{2}$")
    check(("a\nb",), ("ab",), regex="a\nb")
    check(("aab", "ab"), ("b", "aa"), regex="(a+)+b")
    check(("",), ("a",), regex="")


def test_choice(check):
    odd = ("yes", "ye", 'say "no"', "a\\b", "läßt", "[x](y)", "line\nbreak", "\x7f", "//", "")
    check(odd, ("y", "yess", "say", "a"), choice=odd)


def test_lark(check):
    check(("1+2*3", "(1)"), ("1+", "()"), grammar='start: t ("+" t)*\nt: f ("*" f)*\nf: /[0-9]+/ | "(" start ")"')
    check(("<|im_start|>a",), ("a",), grammar='start: <|im_start|> "a"')
    check(('[{"a": 1}]',), ("[1]",), grammar='start: "[" %json {"type": "object"} "]"')


REFUSED = [
    ({"json": {"type": "object", "properties": {"a": {"uniqueItems": True}}}}, "json.properties.a.uniqueItems"),
    ({"json": {"anyOf": [{}, {"not": {"type": "string"}}]}}, "json.anyOf[1].not"),
    ({"json": {"type": "string", "format": "no-such"}}, "json.format"),
    ({"json": {"properties": {"odd key": {"pattern": "a(?=b)"}}}}, "json.properties['odd key'].pattern"),
    ({"json": {"$ref": "#/$defs/none"}}, "json.$ref"),
    ({"json": {"$ref": "https://example.com/schema"}}, "json.$ref"),
    ({"json": {"items": {"type": "strin"}}}, "json.items.type"),
    ({"json": {"properties": {"a": 5}}}, "json.properties.a"),
    ({"json": {"properties": []}}, "json.properties"),
    ({"json": {"oneOf": {}}}, "json.oneOf"),
    ({"json": {"type": "number", "exclusiveMinimum": True}}, "json.exclusiveMinimum"),
    ({"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "json"),
    ({"json": {"x-guidance": {"lenient": True}}}, "json"),
    ({"json": "{"}, "json"),
    ({"json": False}, "json"),
    ({"json": {"type": "object"}, "whitespace_pattern": "("}, "json"),
    ({"json": {}, "whitespace_pattern": " ", "disable_any_whitespace": True}, "whitespace_pattern"),
    ({"regex": "(a"}, "regex"),
    ({"regex": r"\bword\b"}, "regex"),
    ({"regex": r"(a)\1"}, "regex"),
    ({"regex": "a", "whitespace_pattern": " "}, "whitespace_pattern"),
    ({"choice": ()}, "choice"),
    ({"choice": ("a", 1)}, "choice[1]"),
    ({"grammar": "nothing of the kind"}, "grammar"),
    ({"grammar": "start: missing"}, "grammar"),
    ({"grammar": "start: start"}, "grammar"),
    ({"grammar": "start: <|no_such_token|>"}, "grammar"),
]


@pytest.mark.parametrize(("shape", "path"), REFUSED)
def test_refused_by_name(check, shape, path):
    with pytest.raises(InvalidRequest) as refused:
        check(**shape)
    assert refused.value.param == f"$.structured_outputs.{path}"
    assert refused.value.param in refused.value.message
    assert "\n" not in refused.value.message and len(refused.value.message) < 1000


def test_position_in_a_lark_grammar_is_told(check):
    with pytest.raises(InvalidRequest, match=r"line 2, column 4"):
        check(grammar="start: a\na: missing")


def test_what_cannot_be_enforced_is_left_out_of_a_lenient_schema(check):
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "b": {"type": "string", "pattern": "^(?!x)[a-z]+$"},
            "c": {"type": "integer", "not": {"const": 3}},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    with pytest.raises(Unsupported):
        check(json=schema)
    check(('{"a": [1, 1], "b": "xyz"}',), ('{"a": ["x"], "b": "y"}', '{"a": []}'), json=schema, is_lenient=True)
    with pytest.raises(InvalidRequest, match=r"items\.type"):
        check(json={"items": {"type": "strin"}}, is_lenient=True)


def test_keywords_that_say_nothing_are_no_obstacle(check):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": False, "items": {"type": "number", "format": "double"}}},
        "propertyNames": {},
        "unevaluatedProperties": True,
    }
    check(('{"a": [1.5]}',), ('{"a": ["x"]}',), json=schema)


def test_the_clients_schema_is_not_changed(check):
    schema = {"type": "object", "properties": {"a": {"uniqueItems": False, "properties": {}}}}
    before = msgspec.json.encode(schema)
    check(json=schema, disable_additional_properties=True)
    assert msgspec.json.encode(schema) == before


@pytest.mark.parametrize(
    "shape",
    [
        {"regex": "a" * (MAX_GRAMMAR_CHARS + 1)},
        {"grammar": "start: " + '"a" ' * MAX_GRAMMAR_CHARS},
        {"json": {"enum": ["x" * MAX_GRAMMAR_CHARS]}},
        {"choice": ("x" * MAX_GRAMMAR_CHARS, "y")},
        {"structural_tag": {"format": {"type": "const_string", "value": "x" * MAX_GRAMMAR_CHARS}}},
    ],
)
def test_length_is_limited(check, shape):
    with pytest.raises(InvalidRequest, match=str(MAX_GRAMMAR_CHARS)):
        check(**shape)


def test_lone_surrogates_are_no_characters(check):
    for shape in ({"regex": "\ud800"}, {"choice": ("\ud800",)}, {"json": {"const": "\ud800"}}):
        with pytest.raises(InvalidRequest):
            check(**shape)


def test_the_same_shape_is_tried_once(door, monkeypatch):
    wanted = StructuredOutputs(regex="tried[0-9]once")
    text = door.check(wanted)
    monkeypatch.setattr(door._trial, "verdict", lambda grammar: pytest.fail("tried again"))
    assert door.check(wanted) == text
    bad = StructuredOutputs(json={"type": "array", "uniqueItems": False, "items": 3})
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="items"):
            door.check(bad)
