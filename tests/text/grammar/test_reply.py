"""Whole replies: reasoning before an answer that has a shape, and calls in place of it or in the middle of text."""

import pytest

from quire.text.dialects.dialect import Tool
from quire.text.dialects.registry import REASONING_DIALECTS, TOOL_DIALECTS
from quire.text.dialects.think import Think
from quire.text.grammar.lark import json_piece, regex_piece
from quire.text.grammar.reply import after_reasoning, calls, calls_in_text

THINK = next(dialect for dialect in REASONING_DIALECTS if dialect.name == "think")
SPECIAL_THINK = Think(name="special", begin="<|im_start|>", end="<|endoftext|>")
MIXED_THINK = Think(name="mixed", begin="<|im_start|>think", end="done<|endoftext|>")
TOOLS = (
    Tool(
        name="add",
        parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        strict=True,
    ),
    Tool(name="now", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
)
OBJECT = json_piece({"type": "object"})


def tool_dialect(name):
    return next(dialect for dialect in TOOL_DIALECTS if dialect.name == name)


@pytest.mark.parametrize(
    ("dialect", "begin", "end"),
    [(THINK, "<think>", "</think>"), (SPECIAL_THINK, "<|im_start|>", "<|endoftext|>")],
)
def test_the_answer_begins_where_reasoning_has_ended(door, is_match, dialect, begin, end):
    closed = after_reasoning(OBJECT, dialect, door.special, is_open=False)
    for text in ('{"a":1}', f'{begin}\nhm, {{\n{end}\n\n{{"a":1}}', f"{begin}{end}{{}}"):
        assert is_match(closed, text), text
    for text in ("hm", f"{begin}hm{end}", f"{begin}hm{end}x", f"hm{end}{{}}", f'{{"a":1}}{end}', f"{begin}{{}}"):
        assert not is_match(closed, text), text
    opened = after_reasoning(OBJECT, dialect, door.special, is_open=True)
    for text in (f"hm\n{end}\n\n{{}}", f'{end}{{"a":1}}', f"{{}}{end}{{}}"):
        assert is_match(opened, text), text
    for text in ("{}", f"hm{end}", f"hm{end}hm"):
        assert not is_match(opened, text), text


def test_marks_may_be_made_of_tokens_and_text(door, is_match):
    piece = after_reasoning(regex_piece("yes|no"), MIXED_THINK, door.special, is_open=False)
    assert is_match(piece, "yes")
    assert is_match(piece, "<|im_start|>think don, not yet: done<|endoftext|>\nno")
    assert not is_match(piece, "<|im_start|>think<|endoftext|>no")


def test_an_answer_that_may_be_any_text_does_not_swallow_the_mark(door, is_match):
    piece = after_reasoning(regex_piece("(?s:.*)x"), THINK, door.special, is_open=False)
    assert is_match(piece, "<thinx") and is_match(piece, "ax") and is_match(piece, "<think>a</think>x")
    assert not is_match(piece, "<think>x")
    assert is_match(after_reasoning(regex_piece(r"\nx"), THINK, door.special, is_open=True), "a</think>\n\nx")


HERMES_ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
HERMES_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
HERMES_WRONG = '<tool_call>\n{"name": "add", "arguments": {"a": "x"}}\n</tool_call>'


def test_a_reply_of_calls(door, is_match):
    hermes = tool_dialect("hermes")
    several = calls(hermes, TOOLS, door.special, at_most_one=False)
    one = calls(hermes, TOOLS, door.special, at_most_one=True)
    assert (
        is_match(several, HERMES_ADD) and is_match(several, f"{HERMES_ADD}\n{HERMES_NOW}") and is_match(one, HERMES_NOW)
    )
    for text in ("", "text", HERMES_WRONG, f"a {HERMES_ADD}"):
        assert not is_match(several, text)
    assert not is_match(one, f"{HERMES_ADD}\n{HERMES_NOW}")


def test_calls_in_text_are_well_formed(door, is_match):
    piece = calls_in_text(tool_dialect("hermes"), TOOLS, door.special, at_most_one=False)
    for text in ("", "a < b", f"Let me see.\n{HERMES_ADD}", f"{HERMES_ADD}\n{HERMES_NOW} and {HERMES_ADD} so"):
        assert is_match(piece, text), text
    for text in (HERMES_WRONG, "<tool_call>", "x <tool_call>\nhello", f"{HERMES_ADD}{HERMES_WRONG}"):
        assert not is_match(piece, text), text
    one = calls_in_text(tool_dialect("hermes"), TOOLS, door.special, at_most_one=True)
    assert is_match(one, "text") and is_match(one, f"text {HERMES_NOW} text")
    assert not is_match(one, f"{HERMES_NOW}{HERMES_NOW}") and not is_match(one, HERMES_WRONG)


def test_calls_in_lists(door, is_match):
    dialect = tool_dialect("jamba")
    both = '<tool_calls>[{"name": "add", "arguments": {"a": 1}}, {"name": "now", "arguments": {}}]</tool_calls>'
    several = calls_in_text(dialect, TOOLS, door.special, at_most_one=False)
    assert is_match(several, f"text {both} text") and is_match(several, "text")
    assert not is_match(several, "<tool_calls>[]</tool_calls>")
    assert not is_match(calls_in_text(dialect, TOOLS, door.special, at_most_one=True), both)


def test_calls_without_a_mark(door, is_match):
    call = '{"name": "add", "parameters": {"a": 1}}'
    piece = calls_in_text(tool_dialect("llama3_json"), TOOLS, door.special, at_most_one=False)
    for text in (call, f"{call}; {call}", "An answer: {}", ""):
        assert is_match(piece, text), text
    for text in ('{"a": 1}', call.replace("1", '"x"')):
        assert not is_match(piece, text), text


def test_a_mark_that_is_a_special_token(door, is_match):
    special = {**door.special, "<tool_call>": door.special["<|im_start|>"]}
    piece = calls_in_text(tool_dialect("hermes"), TOOLS, special, at_most_one=False)
    written = HERMES_ADD.replace("<tool_call>", "<|im_start|>")
    assert is_match(piece, f"text {written} text {written}") and is_match(piece, HERMES_WRONG)
    assert not is_match(piece, written.replace("1", '"x"'))


def test_reasoning_before_calls_in_text(door, is_match):
    inner = calls_in_text(tool_dialect("hermes"), TOOLS, door.special, at_most_one=False, reasoning=THINK)
    piece = after_reasoning(inner, THINK, door.special, is_open=False)
    for text in (f"<think>I could write <tool_call> here</think>\n\n{HERMES_ADD}", f"Well. {HERMES_ADD}", "text", ""):
        assert is_match(piece, text), text
    for text in ("<think>never ended", f"<think>x</think>{HERMES_WRONG}", HERMES_WRONG):
        assert not is_match(piece, text), text


@pytest.mark.parametrize("dialect", TOOL_DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("at_most_one", [True, False])
def test_every_dialect_can_be_composed(door, is_match, dialect, at_most_one):
    text = door.text(calls_in_text(dialect, TOOLS, door.special, at_most_one=at_most_one))
    assert is_match(text, "Just an answer.")
    door.text(calls(dialect, TOOLS, door.special, at_most_one=at_most_one))


def test_a_tool_that_speaks_of_tokens_is_left_as_it_is(door, is_match):
    tool = Tool(
        name="t", parameters={"type": "object", "properties": {"a": {"const": "<[2147483648]>"}}, "required": ["a"]}
    )
    piece = calls_in_text(tool_dialect("hermes"), (tool,), door.special, at_most_one=False)
    assert is_match(piece, '<tool_call>\n{"name": "t", "arguments": {"a": "<[2147483648]>"}}\n</tool_call>')
    assert not is_match(piece, '<tool_call>\n{"name": "t", "arguments": {"a": ""}}\n</tool_call>')
