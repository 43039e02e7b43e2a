"""Replies in harmony, where every message has a mark: answers and calls are framed, with reasoning or without."""

from typing import Any

import pytest

from quire.text.dialects.dialect import Tool
from quire.text.dialects.harmony import HarmonyCalls, HarmonyReasoning
from quire.text.grammar.lark import json_piece
from quire.text.grammar.reply import after_reasoning, answer, calls, calls_in_text

CALLS, REASONING = HarmonyCalls(), HarmonyReasoning()
TOOLS = (Tool(name="now"), Tool(name="add", parameters={"properties": {"a": {"type": "integer"}}}))

THOUGHT = "<|channel|>analysis<|message|>Let me see: {<|end|>"
NEXT = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}'
FINAL = "<|channel|>final<|message|>"


@pytest.fixture
def special(special_ids: Any) -> Any:
    return special_ids(CALLS.markers)


def test_answers_stand_in_the_final_message(matches: Any, special: Any) -> None:
    schema = json_piece({"type": "object", "properties": {"a": {"type": "integer"}}})
    body = answer(schema, REASONING, special)

    def is_reply(text: str, is_open: bool = False) -> bool:
        grammar = after_reasoning(body, REASONING, special, is_open=is_open)
        return bool(matches(grammar.text(), CALLS.markers, text))

    assert is_reply(f'{FINAL}{{"a": 1}}')
    assert is_reply(f'{THOUGHT}{NEXT}{FINAL}{{"a": 1}}')
    assert is_reply(f'more thoughts<|end|>{NEXT}{FINAL}{{"a": 1}}', is_open=True)
    assert not is_reply('{"a": 1}')
    assert not is_reply(f'{FINAL}{{"a": "x"}}')
    assert not is_reply(f'{THOUGHT}{{"a": 1}}')
    assert not is_reply(f"{THOUGHT}{NEXT}{CALL}")


def test_calls_come_behind_reasoning(matches: Any, special: Any) -> None:
    body = calls(CALLS, TOOLS, special, at_most_one=False)
    grammar = after_reasoning(body, REASONING, special, is_open=False).text()
    assert matches(grammar, CALLS.markers, CALL)
    assert matches(grammar, CALLS.markers, f"{THOUGHT}{NEXT}{CALL}")
    assert not matches(grammar, CALLS.markers, f"{THOUGHT}{NEXT}{FINAL}No.")
    assert not matches(grammar, CALLS.markers, CALL.replace("1", '"x"'))


def test_a_reply_may_be_an_answer_or_a_call(matches: Any, special: Any) -> None:
    body = calls_in_text(CALLS, TOOLS, special, at_most_one=False, reasoning=REASONING)
    grammar = after_reasoning(body, REASONING, special, is_open=False).text()
    for before in ("", THOUGHT + NEXT):
        assert matches(grammar, CALLS.markers, before + CALL)
        assert matches(grammar, CALLS.markers, f"{before}{FINAL}Any text at all: {{")
        assert not matches(grammar, CALLS.markers, before + CALL.replace("add", "subtract"))
        assert not matches(grammar, CALLS.markers, f"{before}Bare text.")
