"""Structural tags, in both ways to write them, held against answers that have the structure and some that do not."""

import json

import pytest

from quire.core.errors import InvalidRequest

ARGUMENTS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
VALUE = {"type": "json_schema", "json_schema": ARGUMENTS}
TAG = {"type": "tag", "begin": "<f=a>", "content": VALUE, "end": "</f>"}
OTHER = {"type": "tag", "begin": "<f=b>", "content": {"type": "regex", "pattern": "[0-9]+"}, "end": "</f>"}
CALL, CALL_B = '<f=a>{"a":1}</f>', "<f=b>12</f>"


def text(value):
    return {"type": "const_string", "value": value}


def triggered(**options):
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": [TAG, OTHER], **options}


def test_structures_and_triggers(check):
    tag = {
        "type": "structural_tag",
        "structures": [
            {"begin": "<f=a>", "schema": ARGUMENTS, "end": "</f>"},
            {"begin": "<f=b>", "schema": {"type": "integer"}, "end": "</f>"},
        ],
        "triggers": ["<f="],
    }
    accepted = ("", "no tag at all, a < b", f"first {CALL} then {CALL_B}", CALL)
    rejected = ("<f=c>", '<f=a>{"b":1}</f>', '<f=a>{"a":1}', "x <f=")
    check(accepted, rejected, structural_tag=tag)
    check(accepted, rejected, structural_tag=json.dumps(tag))


FORMATS = [
    ("const_string", text("a\nb"), ("a\nb",), ("a", "")),
    ("json_schema", VALUE, ('{"a": 1}',), ("{}",)),
    ("regex", {"type": "regex", "pattern": "a+"}, ("aa",), ("",)),
    ("grammar", {"type": "grammar", "grammar": 'root ::= "(" root? ")"'}, ("(())",), ("(()",)),
    ("any_text", {"type": "any_text"}, ("", "any\nthing"), ()),
    ("any_text with excludes", {"type": "any_text", "excludes": ["ab", "cd"]}, ("a b", "acbd"), ("xaby", "cd")),
    ("sequence", {"type": "sequence", "elements": [text("A: "), VALUE, text("!")]}, ('A: {"a":1}!',), ('A: {"a":1}',)),
    (
        "sequence of what could run into each other",
        {"type": "sequence", "elements": [{"type": "regex", "pattern": "[a-z]*"}, text("end"), text("s")]},
        ("ends", "bends", "endends"),
        ("end", "s"),
    ),
    (
        "free text up to a text",
        {"type": "sequence", "elements": [{"type": "any_text"}, text("Answer: "), VALUE]},
        ('Let me see. Answer: {"a":1}', 'Answer: {"a":1}'),
        ("Let me see.", "Answer: 1"),
    ),
    (
        "free text in a tag",
        {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": ["</t>", "</s>"]},
        ("<t></t>", "<t>a <b> c</s>"),
        ("<t>", "<t></t></t>", "<t></t> "),
    ),
    (
        "tag, then an answer",
        {"type": "sequence", "elements": [{**TAG, "content": {"type": "any_text"}}, VALUE]},
        ('<f=a>hm {}</f>{"a":2}',),
        ("<f=a>hm</f>",),
    ),
    ("or", {"type": "or", "elements": [text("yes"), VALUE]}, ("yes", '{"a":1}'), ("ye", "no", 'yes{"a":1}')),
    ("optional", {"type": "optional", "content": VALUE}, ("", '{"a":1}'), ('{"a":1}{"a":1}',)),
    ("star", {"type": "star", "content": text("ab")}, ("", "abab"), ("aba",)),
    ("plus", {"type": "plus", "content": VALUE}, ('{"a":1}', '{"a":1}{"a":2}'), ("",)),
    ("repeat", {"type": "repeat", "min": 1, "max": 2, "content": OTHER}, (CALL_B, CALL_B * 2), ("", CALL_B * 3)),
    ("repeat without end", {"type": "repeat", "min": 1, "max": -1, "content": text("x")}, ("xxxx",), ("",)),
    ("triggered", triggered(), ("", "a", f"a {CALL} b {CALL_B}"), ("<f=x", f"{CALL}<f=")),
    ("triggered, one", triggered(at_least_one=True), (CALL, f"{CALL} b {CALL_B}"), ("", f"a {CALL}")),
    ("triggered, first", triggered(stop_after_first=True), ("", "a", f"a {CALL}"), (f"{CALL} b",)),
    ("triggered, exactly one", triggered(at_least_one=True, stop_after_first=True), (CALL, CALL_B), ("", CALL * 2)),
    ("triggered, excludes", triggered(excludes=["!"]), (f"a {CALL}",), ("a!", f"{CALL}!")),
    (
        "triggered in a tag",
        {"type": "tag", "begin": "<r>", "content": triggered(), "end": "</r>"},
        ("<r></r>", f"<r>x {CALL} y</r>"),
        (f"<r>x {CALL} y", "<r><f=</r>"),
    ),
    (
        "separated",
        {"type": "tags_with_separator", "tags": [TAG, OTHER], "separator": ", "},
        ("", CALL, f"{CALL}, {CALL_B}"),
        (f"{CALL},{CALL}", f"{CALL}, ", "x"),
    ),
    (
        "separated, exactly one",
        {"type": "tags_with_separator", "tags": [TAG], "separator": "", "at_least_one": True, "stop_after_first": True},
        (CALL,),
        ("", CALL * 2),
    ),
    ("special token by its name", text("<|im_start|>x"), ("<|im_start|>x",), ("x",)),
    (
        "tokens",
        {
            "type": "tag",
            "begin": {"type": "token", "token": "<|im_start|>"},
            "content": {"type": "any_text"},
            "end": {"type": "token", "token": 0},
        },
        ("<|im_start|>any<|endoftext|>",),
        ("any", "<|im_start|>any"),
    ),
    (
        "deep",
        {"type": "sequence", "elements": [
            {"type": "or", "elements": [{"type": "optional", "content": {"type": "sequence", "elements": [
                {"type": "or", "elements": [{"type": "plus", "content": {"type": "sequence", "elements": [
                    {"type": "or", "elements": [text("a"), VALUE]}, text(",")]}}, text("b")]}, text(";")]}},
                text("c")]}, text(".")]},
        ("a,a,;.", "b;.", "c.", '{"a":1},;.', "."),
        ("a,a;.", "a"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("form", "accepted", "rejected"), [case[1:] for case in FORMATS], ids=[c[0] for c in FORMATS])
def test_formats(check, form, accepted, rejected):
    check(accepted, rejected, structural_tag={"type": "structural_tag", "format": form})


REFUSED = [
    ({}, ""),
    ([], ""),
    ({"type": "json", "format": text("a")}, ".type"),
    ({"format": text("a"), "more": 1}, ".more"),
    ({"format": 5}, ".format"),
    ({"format": {"value": "x"}}, ".format.type"),
    ({"format": {"type": "no_such"}}, ".format.type"),
    ({"format": {"type": "const_string"}}, ".format.value"),
    ({"format": {"type": "const_string", "value": 5}}, ".format.value"),
    ({"format": {**text("a"), "extra": 1}}, ".format.extra"),
    ({"format": {"type": "sequence", "elements": []}}, ".format.elements"),
    ({"format": {"type": "sequence", "elements": [{"type": "any_text"}, VALUE]}}, ".format.elements[0]"),
    ({"format": {"type": "star", "content": {"type": "any_text"}}}, ".format.content"),
    ({"format": {"type": "repeat", "min": 3, "max": 1, "content": text("a")}}, ".format.max"),
    ({"format": {"type": "token", "token": "<|nope|>"}}, ".format.token"),
    ({"format": {"type": "token", "token": 77}}, ".format.token"),
    ({"format": {**VALUE, "style": "qwen_xml"}}, ".format.style"),
    ({"format": {**VALUE, "any_order": True}}, ".format.any_order"),
    ({"format": {"type": "json_schema", "json_schema": {"items": 5}}}, ".format.json_schema.items"),
    ({"format": {**TAG, "end": []}}, ".format.end"),
    ({"format": triggered(triggers=["<g"])}, ".format.tags[0].begin"),
    ({"format": triggered(triggers=["<f=", "<g="])}, ".format.triggers[1]"),
    ({"format": triggered(tags=[])}, ".format.tags"),
    ({"format": {"type": "grammar", "grammar": 'root ::= "a'}}, ".format.grammar"),
    ({"structures": [], "triggers": ["a"]}, ".structures"),
    ({"structures": [{"begin": "<f", "end": ""}], "triggers": [""]}, ".triggers[0]"),
    ({"structures": [{"begin": "<f", "end": "", "x": 1}], "triggers": ["<f"]}, ".structures[0].x"),
]


@pytest.mark.parametrize(("tag", "path"), REFUSED)
def test_refused_by_name(check, tag, path):
    with pytest.raises(InvalidRequest) as refused:
        check(structural_tag=tag if isinstance(tag, dict) else json.dumps(tag))
    assert refused.value.param == f"$.structured_outputs.structural_tag{path}"
