"""Replies are read the same however they are cut; what is no call stays content, whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.events import Call, Reply
from quire.text.dialects.registry import choose

TOOLS = (
    Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}}),
)


def read(parser: Parser, pieces: list[str]) -> Reply:
    events = [event for piece in pieces for event in parser.push(piece)]
    return Reply.of(events + parser.finish())


def reply_of(tools: str, reasoning: str, text: str, prompt: str = "") -> Reply:
    """Read whole, and character by character: both must agree."""
    dialects = choose(tools, reasoning, None)
    whole = read(dialects.parser(TOOLS, prompt), [text])
    assert read(dialects.parser(TOOLS, prompt), list(text)) == whole
    return whole


FRAGMENTS = {
    "hermes": (
        "<tool_call>",
        "</tool_call>",
        '{"name": "add", "arguments": {"a": 1}}',
        '{"name": "add",',
        '"arguments":',
    ),
}
COMMON = (
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    ",",
    ":",
    " ",
    "\n",
    "x",
    "é",
    '{"a": "\\"b\\u00e9',
    "<",
    "null",
    "<think>",
    "</think>",
)


@pytest.mark.parametrize("family", FRAGMENTS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_chunking_equals_the_whole(family: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(FRAGMENTS[family] + COMMON), max_size=20)))
    text = text[: data.draw(st.integers(0, len(text)))]
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    chunks = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    dialects = choose(family, "think", None)
    whole = read(dialects.parser(TOOLS, ""), [text])
    assert read(dialects.parser(TOOLS, ""), chunks) == whole
    assert read(dialects.parser(TOOLS, ""), list(text)) == whole


def test_a_call_between_content() -> None:
    text = 'Look: <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\ndone'
    assert reply_of("hermes", "none", text) == Reply("Look: \ndone", None, (Call("add", '{"a": 1}'),))
