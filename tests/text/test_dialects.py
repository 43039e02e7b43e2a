"""The laws of all dialects: replies are read the same however they are cut, completely, and in linear time."""

import sys
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.text.dialects.dialect import ReasoningDialect, Tool, ToolDialect
from quire.text.dialects.events import CallBegun, Content, Event
from quire.text.dialects.harmony import HarmonyCalls
from quire.text.dialects.mistral import Mistral
from quire.text.dialects.plain import PlainParser
from quire.text.dialects.registry import REASONING_DIALECTS, TOOL_DIALECTS, Dialects

OFFERED = (
    Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}),
    Tool(name="now"),
)
MARKING_CALLS = [family for family in TOOL_DIALECTS if not isinstance(family, HarmonyCalls)]
"""Those that mark nothing but calls; Harmony marks all there is in a reply."""
FRAGMENTS = (
    *"{}[]()\"\\,:;= \n'é0x<>/",
    *("null", "add", "now", '"name"', '"arguments"', '"parameters"', '"id": "x"', "a=", "True", "functools", "[ARGS]"),
    *('{"name": "add", "arguments": {"a": 1, "b": "\\"é\\u00e9"}}', '{"name": "now"}', '"arguments": "{\\"a\\": 1}"'),
    *("add(a=1, b='x\"y\\n')", "now()", '{"a": 1}', "\\ud83d\\ude00", "\\ud83d", "   ", "\r\n"),
    *("<function=add>", "<parameter=a>", "</parameter>", "</function>", "add\n```json\n", "\n```", "functions.add:0"),
    *("<arg_key>a</arg_key>", "<arg_value>1</arg_value>", "<arg_key>", "</arg_value>", "to=functions.add"),
    *(mark for family in (*TOOL_DIALECTS, *REASONING_DIALECTS) for mark in family.markers),
)


def parser_of(tools: ToolDialect | None, reasoning: ReasoningDialect | None) -> Any:
    if isinstance(tools, Mistral):
        numbers = count()
        tools = Mistral(new_id=lambda: f"{next(numbers):09}")
    return Dialects(tools, reasoning).parser(OFFERED, "")


def drawn_text(data: st.DataObject, markers: tuple[str, ...]) -> str:
    """A mixture of fragments, a family's own markers often among them, any of them maybe broken off."""
    pieces = data.draw(st.lists(st.sampled_from(FRAGMENTS) | st.sampled_from((*markers, "{", "[", " ")), max_size=16))
    return "".join(
        piece[: data.draw(st.integers(1, len(piece)))] if data.draw(st.booleans()) else piece for piece in pieces
    )


def assert_law(make: Any, text: str, data: st.DataObject, read_reply: Any) -> None:
    read_reply(make, text, 1, *data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=2)))


@pytest.mark.parametrize("family", TOOL_DIALECTS, ids=lambda family: family.name)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_chunking_of_calls_equals_the_whole(family: ToolDialect, data: st.DataObject, read_reply: Any) -> None:
    assert_law(lambda: parser_of(family, None), drawn_text(data, family.markers), data, read_reply)


@pytest.mark.parametrize("family", REASONING_DIALECTS, ids=lambda family: family.name)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_chunking_of_reasoning_equals_the_whole(
    family: ReasoningDialect, data: st.DataObject, read_reply: Any
) -> None:
    text = drawn_text(data, family.markers)
    is_open = data.draw(st.booleans())
    tools = data.draw(st.sampled_from(TOOL_DIALECTS))
    assert_law(lambda: family.parser(is_open, parser_of(tools, None)), text, data, read_reply)


@pytest.mark.parametrize("family", MARKING_CALLS, ids=lambda family: family.name)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_text_without_a_call_comes_out_whole(family: ToolDialect, data: st.DataObject) -> None:
    text = drawn_text(data, family.markers)
    parser = parser_of(family, None)
    events: list[Event] = [*parser.push(text), *parser.finish()]
    if not any(isinstance(event, CallBegun) for event in events):
        assert "".join(event.text for event in events if isinstance(event, Content)) == text


def num_steps(make: Any, pieces: list[str]) -> int:
    """Lines of the dialects' code that reading takes."""
    steps = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal steps
        if "dialects" not in frame.f_code.co_filename:
            return None
        steps += event == "line"
        return trace

    parser = make()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for piece in pieces:
            parser.push(piece)
        parser.finish()
    finally:
        sys.settrace(before)
    return steps


def hostile(markers: tuple[str, ...]) -> list[str]:
    """Texts that repeat what makes parsers look again: beginnings that lead nowhere, openings that never close."""
    openings = (
        "{",
        "[",
        '{"name": "add", "arguments": {',
        '{"arguments": {',
        "[add(a=",
        "functools[",
        '{"a',
        " \n",
        "<",
        '\\"',
        "add\n",
        "<function=add>\n<parameter=a>",
        "add<arg_key>b</arg_key><arg_value>1",
    )
    repeated = [mark[:cut] for mark in markers for cut in (len(mark), len(mark) - 1)]
    repeated += [mark + opening for mark in markers for opening in openings]
    return [*repeated, *openings, *(f'{mark}{{"name": "add", "arguments": "{mark}' for mark in markers)]


@pytest.mark.parametrize("family", TOOL_DIALECTS, ids=lambda family: family.name)
@pytest.mark.parametrize("size", [1, 1000])
def test_steps_grow_no_faster_than_the_text(family: ToolDialect, size: int) -> None:
    for unit in hostile(family.markers):
        once = unit * (160 // len(unit) + 1)
        steps = [
            num_steps(lambda: parser_of(family, None), [text[at : at + size] for at in range(0, len(text), size)])
            for text in (once, once * 2)
        ]
        assert steps[1] < 2.2 * steps[0] + 200, unit


@pytest.mark.parametrize("family", REASONING_DIALECTS, ids=lambda family: family.name)
def test_steps_of_reasoning_grow_no_faster_than_the_text(family: ReasoningDialect) -> None:
    for unit in (family.begin, family.begin[:-1], family.end[:-1], "\n", " ", f"\n{family.end[:-1]}"):
        once = unit * (160 // len(unit) + 1)
        steps = [num_steps(lambda: family.parser(True, PlainParser()), list(text)) for text in (once, once * 2)]
        assert steps[1] < 2.2 * steps[0] + 200, unit
